// Optional enhancements: search works without scripts.
// Addresses are taken from links and forms, never made here: the page may be below any prefix.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const say = (text) => { $("#said").textContent = text; };
const leaving = new AbortController();
addEventListener("pagehide", (event) => event.persisted || leaving.abort());

for (const element of $$("[data-script]")) element.hidden = false;

async function load(url) {
  const response = await fetch(url, { signal: leaving.signal });
  if (!response.ok) throw new Error(`${response.status}`);
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

// --- The box ---------------------------------------------------------------------------------------

const box = $("#q");
const form = $("#box");
const byPicture = $("#by-picture");

function dropEmpty(data) {
  // Keep shared URLs free of empty parameters.
  for (const [name, value] of [...data]) if (typeof value === "string" && !value.trim()) data.delete(name);
}
form?.addEventListener("formdata", ({ formData }) => dropEmpty(formData));

byPicture?.addEventListener("formdata", ({ formData }) => {
  const brought = [...formData].filter(([name]) => name === "picture" || name === "url");
  for (const name of [...formData.keys()]) formData.delete(name);
  for (const [name, value] of [...new FormData(form), ...brought]) if (name !== "vector") formData.append(name, value);
  dropEmpty(formData);
});

// The panels close as menus do.
const panels = $$(".box details");
for (const panel of panels) {
  panel.addEventListener("toggle", () => panel.open && panels.forEach((other) => other !== panel && (other.open = false)));
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !panel.open) return;
    panel.open = false;
    $("summary", panel).focus();
  });
}
document.addEventListener("pointerdown", ({ target }) => {
  for (const panel of panels) if (!panel.contains(target)) panel.open = false;
});

// --- An image to search by: chosen, dropped or pasted ----------------------------------------------

const file = $("input[name=picture]");
const address = $("input[name=url]");
const SMALL = 32;
const KEPT = "picture:";

function complain(text) {
  const place = $(".complaint");
  place.textContent = text;
  place.hidden = false;
  $(".by-picture").open = true;
}

async function searchBy(picture) {
  const largest = Number(byPicture.dataset.largest);
  if (picture.size > largest) {
    complain(`This image is too large: ${Math.floor(largest / 1e6)} MB are the most.`);
    return;
  }
  sessionStorage.removeItem(KEPT);
  try {
    sessionStorage.setItem(KEPT, await smallPixels(picture));
  } catch { /* The server reports the error; an image that only the server can read gets no preview here. */ }
  submit();
}

function submit() {
  say("Searching by the image");
  byPicture.requestSubmit();
}

async function smallPixels(picture) {
  const bitmap = await createImageBitmap(picture);
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = new OffscreenCanvas(SMALL, SMALL).getContext("2d");
  canvas.drawImage(bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side, 0, 0, SMALL, SMALL);
  return btoa(String.fromCharCode(...canvas.getImageData(0, 0, SMALL, SMALL).data));
}

function paintSmall(canvas) {
  const fresh = sessionStorage.getItem(KEPT);
  const key = KEPT + canvas.dataset.vector;
  if (fresh) sessionStorage.setItem(key, fresh);
  sessionStorage.removeItem(KEPT);
  const pixels = sessionStorage.getItem(key);
  if (!pixels) return;
  const bytes = Uint8ClampedArray.from(atob(pixels), (character) => character.charCodeAt(0));
  canvas.getContext("2d").putImageData(new ImageData(bytes, SMALL, SMALL), 0, 0);
  canvas.hidden = false;
  canvas.nextElementSibling.remove();
}
$$("canvas[data-vector]").forEach(paintSmall);

function searchByAny({ files, text }) {
  const picture = [...files].find((each) => each.type.startsWith("image/"));
  if (picture) {
    const one = new DataTransfer();
    one.items.add(picture);
    file.files = one.files;
    searchBy(picture);
  } else if (/^https?:\/\/\S+$/.test(text)) {
    address.value = text;
    submit();
  } else if (files.length) complain("This file is not an image.");
}

const linkIn = (data) => (data.getData("text/uri-list") || data.getData("text/plain")).trim().split(/\s/)[0];

if (byPicture) {
  file.addEventListener("change", () => file.files.length && searchBy(file.files[0]));

  document.addEventListener("paste", (event) => {
    const field = event.target.closest?.("input, textarea");
    const { files } = event.clipboardData;
    if (field && !files.length) return;
    if (files.length) event.preventDefault();
    searchByAny({ files, text: event.clipboardData.getData("text/plain").trim() });
  });

  let ours = false; // an image of this page is being dragged
  const here = $("#drop-here");
  const brings = (event) => !ours && ["Files", "text/uri-list"].some((type) => event.dataTransfer?.types.includes(type));
  document.addEventListener("dragstart", () => { ours = true; });
  document.addEventListener("dragend", () => { ours = false; });
  document.addEventListener("dragover", (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    here.hidden = false;
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || (here.hidden = true));
  document.addEventListener("drop", (event) => {
    here.hidden = true;
    if (!brings(event)) return;
    event.preventDefault();
    searchByAny({ files: event.dataTransfer.files, text: linkIn(event.dataTransfer) });
  });
}

// --- The grid: missing images, more results, keys -----------------------------------------------------

// An image whose file or host is gone shows its alternative text in a plain frame.
function watchPictures(root) {
  for (const picture of $$(".grid img, .cell img", root)) {
    const mark = () => picture.closest(".frame").classList.add("missing");
    if (picture.complete && !picture.naturalWidth) mark();
    else picture.addEventListener("error", mark);
  }
}
watchPictures(document);

const results = $(".grid[data-page]");
const pager = $("#pager");
let coming = null; // the next page, while it is fetched

function more() {
  const link = pager?.isConnected && $("a", pager);
  if (!link) return null;
  coming ??= load(link.href).then((page) => append(page, link)).finally(() => { coming = null; });
  return coming;
}

function append(page, link) {
  const grid = $(".grid[data-page]", page);
  const cells = $$("li", grid ?? page.createElement("ul")).filter((cell) => !cell.id || !document.getElementById(cell.id));
  if (cells.length) cells[0].dataset.page = grid.dataset.page;
  results.append(...cells);
  cells.forEach((cell) => watchPictures(cell));
  const next = $("#pager a", page);
  if (next) link.href = next.href;
  else pager.remove();
  const last = $("#last", page)?.textContent;
  if (last) $("#last").textContent = last;
  say(`${cells.length} more images, ${last} in all`);
}

if (results) {
  history.scrollRestoration = "manual";
  results.firstElementChild.dataset.page = results.dataset.page;
  document.getElementById(history.state?.at)?.scrollIntoView({ block: "start" });
  const near = new IntersectionObserver(async ([entry]) => {
    if (!entry.isIntersecting) return;
    try {
      // Where the window is larger than what came, it will not come into view again.
      while (pager.isConnected && pager.getBoundingClientRect().top < 2 * innerHeight) await more();
    } catch {
      near.disconnect(); // the link remains
      if (!leaving.signal.aborted) say("More images could not be loaded. The link below tries again.");
    }
  }, { rootMargin: "100% 0px" });
  if (pager) near.observe(pager);

  let due = 0;
  addEventListener("scroll", () => {
    clearTimeout(due);
    due = setTimeout(rememberPlace, 120); // browsers allow a hundred changes of the address in half a minute
  }, { passive: true });
}

// Reloading, sharing and going back lead to the page in view.
function rememberPlace() {
  if ($("#lightbox").open) return;
  const inView = $$(".cell", results).find((cell) => cell.getBoundingClientRect().bottom > innerHeight / 4);
  const pages = $$("[data-page]", results).filter((cell) => cell.getBoundingClientRect().top < innerHeight / 2);
  const page = pages.at(-1) ?? results.firstElementChild;
  history.replaceState({ at: scrollY > 0 ? inView?.id : undefined }, "", page.dataset.page);
}

function moveIn(grid, from, key) {
  const cells = $$(".open", grid);
  const at = cells.indexOf(from);
  if (key === "ArrowLeft") return cells[at - 1];
  if (key === "ArrowRight") return cells[at + 1];
  const here = from.getBoundingClientRect();
  const middle = here.left + here.width / 2;
  const down = key === "ArrowDown";
  const rest = down ? cells.slice(at + 1) : cells.slice(0, Math.max(at, 0)).reverse();
  const boxes = rest.map((cell) => ({ cell, box: cell.getBoundingClientRect() }));
  const next = boxes.find(({ box: each }) => (down ? each.top > here.top + 1 : each.top < here.top - 1));
  if (!next) return undefined;
  const row = boxes.filter(({ box: each }) => Math.abs(each.top - next.box.top) < 2);
  const off = ({ box: each }) => Math.max(each.left - middle, middle - each.right, 0);
  return row.reduce((best, each) => (off(each) < off(best) ? each : best)).cell;
}

// --- The lightbox: an image's page over the results ------------------------------------------------

const lightbox = $("#lightbox");
const ownPath = location.pathname;
const ownTitle = document.title;
let current = null; // the cell whose image is shown

const neighbour = (step) => {
  const cells = current ? $$(".open", current.closest(".grid")) : [];
  return cells[cells.indexOf(current) + step];
};

async function show(cell) {
  current = cell;
  const frame = $(".frame", cell).cloneNode(true);
  $(".number", frame)?.remove();
  $(".body", lightbox).replaceChildren(frame);
  frame.className = `stage waits ${cell.closest(".cell").classList[1]}`;
  lightbox.setAttribute("aria-busy", "true");
  if (!lightbox.open) lightbox.showModal();
  lightbox.scrollTop = 0;
  for (const button of $$("[data-step]", lightbox)) button.disabled = !neighbour(Number(button.dataset.step));
  try {
    const page = await load(cell.href);
    if (current !== cell || !lightbox.open) return;
    $(".body", lightbox).replaceChildren($("article", page));
    readyToCopy(lightbox);
    document.title = page.title;
    lightbox.setAttribute("aria-label", $("h1", lightbox).textContent);
  } catch {
    if (!leaving.signal.aborted) location.reload(); // the URL is the image's: its own page reports the error
  } finally {
    lightbox.removeAttribute("aria-busy");
  }
}

function open(cell) {
  history.pushState({ lightbox: true }, "", cell.href);
  show(cell);
}

async function step(by) {
  if (by > 0 && !neighbour(2) && current?.closest(".grid") === results) await more()?.catch(() => {});
  const cell = neighbour(by);
  if (!cell) return;
  history.replaceState({ lightbox: true }, "", cell.href);
  show(cell);
}

lightbox.addEventListener("close", () => {
  document.title = ownTitle;
  current?.focus();
  current = null;
  if (history.state?.lightbox) history.back();
});

addEventListener("popstate", ({ state }) => {
  const cell = state?.lightbox && $$(".open").find((each) => each.href === location.href);
  if (cell) show(cell);
  else if (location.pathname === ownPath) lightbox.close();
  else location.reload(); // a history entry of another page
});

lightbox.addEventListener("click", (event) => {
  if (event.target.closest("[data-close]")) lightbox.close();
  const button = event.target.closest("[data-step]");
  if (button) step(Number(button.dataset.step));
});

document.addEventListener("click", (event) => {
  const cell = event.target.closest(".open");
  if (!cell || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  open(cell);
});

let touch = null;
lightbox.addEventListener("touchstart", ({ touches }) => { touch = touches.length === 1 ? touches[0] : null; }, { passive: true });
lightbox.addEventListener("touchend", ({ changedTouches: [end], target }) => {
  if (!touch || target.closest("pre") || (window.visualViewport?.scale ?? 1) > 1) return;
  const [x, y] = [end.clientX - touch.clientX, end.clientY - touch.clientY];
  if (Math.abs(x) > 50 && Math.abs(y) < Math.abs(x) / 2) step(x < 0 ? 1 : -1);
});

// --- Keys -------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
  const { key, target } = event;
  const arrow = key.startsWith("Arrow");
  const along = { ArrowLeft: -1, ArrowRight: 1 }[key];
  let goal;
  if (lightbox.open) {
    if (along && !target.closest("pre")) step(along);
    return;
  }
  if (target === box && key === "ArrowDown") goal = $(".open");
  else if (target.closest("input, textarea, select, summary, pre")) return;
  else if (key === "/") goal = box;
  else if (arrow && target.closest(".cell")) goal = moveIn(target.closest(".grid"), $(".open", target.closest(".cell")), key);
  else if (along && $(".trail")) $(`.trail a[rel="${along < 0 ? "prev" : "next"}"]`)?.click();
  else if (along) goal = $(".open");
  if (!goal) return;
  event.preventDefault();
  goal.focus();
  if (goal === box) box.select();
  else goal.scrollIntoView({ block: "nearest" });
});

// --- Copying SQL, and trying again ------------------------------------------------------------------

function readyToCopy(root) {
  for (const button of $$("[data-copy]", root)) button.hidden = false;
}
readyToCopy(document);

document.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-copy]");
  if (!button) return;
  const code = $("code", button.parentElement);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Selected: copy it with your keys";
  }
});

const again = $("[data-again]");
if (again) {
  again.hidden = false;
  setInterval(() => document.hidden || location.reload(), 1000 * Number(again.dataset.again));
}
