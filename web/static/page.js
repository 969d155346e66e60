// What the page can do without, but is handier with. Nothing here is needed to search.

const box = document.getElementById("q");

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select")) return;
  if (event.key === "/" && box) {
    event.preventDefault();
    box.focus();
    box.select();
  }
  // Arrows turn the pages of a picture's search, as its links do.
  const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (rel) document.querySelector(`.trail a[rel="${rel}"]`)?.click();
});

for (const form of document.querySelectorAll("form.box")) {
  // An address without empty parameters is one that people share.
  form.addEventListener("submit", () => {
    for (const input of form.elements) if (input.name && !input.value.trim()) input.disabled = true;
  });
}
// Coming back, the browser may restore the page as it was left: with those inputs disabled.
addEventListener("pageshow", () => {
  for (const input of document.querySelectorAll("form.box input, form.box select")) input.disabled = false;
});

// A picture whose file or host is gone shows its text in a plain frame.
for (const picture of document.querySelectorAll(".grid img")) {
  const mark = () => picture.closest(".frame").classList.add("missing");
  if (picture.complete && !picture.naturalWidth) mark();
  else picture.addEventListener("error", mark);
}
