// Optional enhancements: search works without scripts.
// URLs come from links and forms, because the application may be mounted below any path prefix.

import { stopPlayers, watchPlayers } from "./video.js";

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

// --- The search box --------------------------------------------------------------------------------

const box = $("#q");
const form = $("#box");
const imageForm = $("#image-search");

const MIDDLE = 0.5; // of the balance between image and text

function dropEmpty(data) {
  // Shared URLs should have no empty parameters, and none that changes nothing.
  for (const [name, value] of [...data]) if (typeof value === "string" && !value.trim()) data.delete(name);
  if (Number(data.get("text_weight")) === MIDDLE) data.delete("text_weight");
}
form?.addEventListener("formdata", ({ formData }) => dropEmpty(formData));

imageForm?.addEventListener("formdata", ({ formData }) => {
  // Send the search form's current text and filters with the image.
  const imageFields = [...formData].filter(([name]) => name === "image" || name === "url");
  for (const name of [...formData.keys()]) formData.delete(name);
  for (const [name, value] of [...new FormData(form), ...imageFields]) if (name !== "vector") formData.append(name, value);
  dropEmpty(formData);
});

// A drag of the balance searches at once. Keys move it in small steps: Enter searches.
const balance = $("[name=text_weight]");
let dragged = false;
balance?.addEventListener("pointerdown", () => { dragged = true; });
balance?.addEventListener("keydown", () => { dragged = false; });
balance?.addEventListener("change", () => dragged && form.requestSubmit());

// The panels close like menus: one is open at a time; Escape or a click outside closes it.
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

// --- Search by an image that is chosen, dropped or pasted -------------------------------------------

const file = $("input[name=image]");
const address = $("input[name=url]");
const PREVIEW_SIDE = 32; // pixels
const PREVIEW_KEY = "image:"; // in sessionStorage: of the image being uploaded, and with its vector after it

function showError(text) {
  const message = $(".complaint");
  message.textContent = text;
  message.hidden = false;
  $(".image-search").open = true;
}

async function searchBy(image) {
  const largest = Number(imageForm.dataset.largest);
  if (image.size > largest) {
    showError(`This image is too large: the limit is ${Math.floor(largest / 1e6)} MB.`);
    return;
  }
  sessionStorage.removeItem(PREVIEW_KEY);
  try {
    sessionStorage.setItem(PREVIEW_KEY, await makePreview(image));
  } catch { /* The server reports the error. An image that only the server can read has no preview. */ }
  submit();
}

function submit() {
  say("Searching by the image");
  imageForm.requestSubmit();
}

async function makePreview(image) {
  const bitmap = await createImageBitmap(image);
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = new OffscreenCanvas(PREVIEW_SIDE, PREVIEW_SIDE).getContext("2d");
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  canvas.drawImage(bitmap, left, top, side, side, 0, 0, PREVIEW_SIDE, PREVIEW_SIDE);
  return btoa(String.fromCharCode(...canvas.getImageData(0, 0, PREVIEW_SIDE, PREVIEW_SIDE).data));
}

function showPreview(canvas) {
  const uploaded = sessionStorage.getItem(PREVIEW_KEY);
  const key = PREVIEW_KEY + canvas.dataset.vector;
  if (uploaded) sessionStorage.setItem(key, uploaded);
  sessionStorage.removeItem(PREVIEW_KEY);
  const pixels = sessionStorage.getItem(key);
  if (!pixels) return;
  const bytes = Uint8ClampedArray.from(atob(pixels), (character) => character.charCodeAt(0));
  canvas.getContext("2d").putImageData(new ImageData(bytes, PREVIEW_SIDE, PREVIEW_SIDE), 0, 0);
  canvas.hidden = false;
  canvas.nextElementSibling.remove();
}
$$("canvas[data-vector]").forEach(showPreview);

function searchByAny({ files, text }) {
  // Many systems know no type for HEIC, JPEG XL and RAW.
  const image = [...files].find((each) => each.type.startsWith("image/")) ?? [...files].find((each) => !each.type);
  if (image) {
    const transfer = new DataTransfer();
    transfer.items.add(image);
    file.files = transfer.files;
    searchBy(image);
  } else if (/^https?:\/\/\S+$/.test(text)) {
    address.value = text;
    submit();
  } else if (files.length) showError("This file is not an image.");
}

const linkIn = (data) => (data.getData("text/uri-list") || data.getData("text/plain")).trim().split(/\s/)[0];

if (imageForm) {
  file.addEventListener("change", () => file.files.length && searchBy(file.files[0]));

  document.addEventListener("paste", (event) => {
    const field = event.target.closest?.("input, textarea");
    const { files } = event.clipboardData;
    if (field && !files.length) return;
    if (files.length) event.preventDefault();
    searchByAny({ files, text: event.clipboardData.getData("text/plain").trim() });
  });

  let fromThisPage = false; // an image of this page is being dragged
  const dropArea = $("#drop-here");
  const accepts = ({ dataTransfer }) => !fromThisPage && ["Files", "text/uri-list"].some((type) => dataTransfer?.types.includes(type));
  document.addEventListener("dragstart", () => { fromThisPage = true; });
  document.addEventListener("dragend", () => { fromThisPage = false; });
  document.addEventListener("dragover", (event) => {
    if (!accepts(event)) return;
    event.preventDefault();
    dropArea.hidden = false;
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || (dropArea.hidden = true));
  document.addEventListener("drop", (event) => {
    dropArea.hidden = true;
    if (!accepts(event)) return;
    event.preventDefault();
    searchByAny({ files: event.dataTransfer.files, text: linkIn(event.dataTransfer) });
  });
}

// --- The grid: missing images, more results, keys -----------------------------------------------------

// An image that cannot be loaded is replaced by its alternative text in a plain frame.
function watchImages(root) {
  for (const image of $$(".grid img, .cell img", root)) {
    const mark = () => image.closest(".frame").classList.add("missing");
    if (image.complete && !image.naturalWidth) mark();
    else image.addEventListener("error", mark);
  }
}
watchImages(document);
watchPlayers(document);

const results = $(".grid[data-page]");
const pager = $("#pager");
let loading = null; // promise of the next page, while it is fetched

function more() {
  const link = pager?.isConnected && $("a", pager);
  if (!link) return null;
  loading ??= load(link.href).then((page) => append(page, link)).finally(() => { loading = null; });
  return loading;
}

function append(page, link) {
  const grid = $(".grid[data-page]", page);
  const cells = $$("li", grid ?? page.createElement("ul")).filter((cell) => !cell.id || !document.getElementById(cell.id));
  if (cells.length) cells[0].dataset.page = grid.dataset.page;
  results.append(...cells);
  cells.forEach((cell) => watchImages(cell));
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
      // If the new images do not fill the window, the link stays in view and the observer does not fire again.
      while (pager.isConnected && pager.getBoundingClientRect().top < 2 * innerHeight) await more();
    } catch {
      near.disconnect(); // the link remains
      if (!leaving.signal.aborted) say("More images could not be loaded. Use the link below to try again.");
    }
  }, { rootMargin: "100% 0px" });
  if (pager) near.observe(pager);

  let due = 0;
  addEventListener("scroll", () => {
    clearTimeout(due);
    due = setTimeout(rememberPlace, 120); // browsers allow a hundred history changes in 30 seconds
  }, { passive: true });
}

// Reload, shared URLs and the back button lead to the page in view.
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

// --- The lightbox: shows an image's page over the results ------------------------------------------

const lightbox = $("#lightbox");
const ownPath = location.pathname;
const ownTitle = document.title;
let current = null; // the cell whose image is shown
let shown = null; // the URL of the page that is shown: the cell's, or that of another moment of its video

const neighbour = (step) => {
  const cells = current ? $$(".open", current.closest(".grid")) : [];
  return cells[cells.indexOf(current) + step];
};

async function show(cell, url = cell.href) {
  const sameCell = current === cell && lightbox.open;
  current = cell;
  shown = url;
  if (!sameCell) {
    const frame = $(".frame", cell).cloneNode(true);
    for (const part of $$(".number, .time, .more-moments", frame)) part.remove();
    stopPlayers(lightbox);
    $(".body", lightbox).replaceChildren(frame);
    frame.className = `stage waits ${cell.closest(".cell").classList[1]}`;
  }
  lightbox.setAttribute("aria-busy", "true");
  if (!lightbox.open) lightbox.showModal();
  lightbox.scrollTop = 0;
  for (const button of $$("[data-step]", lightbox)) button.disabled = !neighbour(Number(button.dataset.step));
  try {
    const page = await load(url);
    if (shown !== url || !lightbox.open) return;
    stopPlayers(lightbox);
    $(".body", lightbox).replaceChildren($("article", page));
    watchPlayers(lightbox, { fetched: true });
    readyToCopy(lightbox);
    document.title = page.title;
    lightbox.setAttribute("aria-label", $("h1", lightbox).textContent);
    if (sameCell) $(".moments [aria-current]", lightbox)?.focus({ preventScroll: true });
  } catch {
    if (!leaving.signal.aborted) location.reload(); // the URL is that of the image's page, which shows the error
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
  stopPlayers(lightbox);
  document.title = ownTitle;
  current?.focus();
  current = shown = null;
  if (history.state?.lightbox) history.back();
});

addEventListener("popstate", ({ state }) => {
  const cell = state?.lightbox && $$(".open").find((each) => [location.href, state.cell].includes(each.href));
  if (cell) show(cell, location.href);
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
  const moment = current && event.target.closest(".moments a");
  if (!(cell || moment) || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  if (cell) open(cell);
  else {
    // Another moment is another view of the same hit: "back" leads to the results.
    history.replaceState({ lightbox: true, cell: current.href }, "", moment.href);
    show(current, moment.href);
  }
});

let touch = null;
lightbox.addEventListener("touchstart", ({ touches }) => { touch = touches.length === 1 ? touches[0] : null; }, { passive: true });
lightbox.addEventListener("touchend", ({ changedTouches: [end], target }) => {
  if (!touch || target.closest("pre, video, .moments") || (window.visualViewport?.scale ?? 1) > 1) return;
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
    if (along && !target.closest("pre, video")) step(along); // in a video the arrows are the player's own keys
    return;
  }
  if (target === box && key === "ArrowDown") goal = $(".open");
  else if (target.closest("input, textarea, select, summary, pre, video")) return;
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

// --- Copying SQL, and reloading after an error ------------------------------------------------------

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
    button.textContent = "Selected: copy it with Ctrl+C or ⌘C";
  }
});

const reloadNotice = $("[data-again]");
if (reloadNotice) {
  reloadNotice.hidden = false;
  setInterval(() => document.hidden || location.reload(), 1000 * Number(reloadNotice.dataset.again));
}
