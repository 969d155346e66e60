// Players of videos: what takes the place of one that cannot play, and how to end one.

const NO_SOURCE = 3; // networkState: nothing at the URL can be played

// Replaces a player that fails by its preview and a sentence, and shows the current moment in the strip. Players of a
// page that was fetched have not tried to load anything yet.
export function watchPlayers(root, { fetched = false } = {}) {
  for (const video of root.querySelectorAll("video")) {
    const fail = () => {
      video.hidden = true;
      video.parentElement.querySelector(".unplayable").hidden = false;
    };
    video.addEventListener("error", () => video.getAttribute("src") && fail());
    // A browser that knows only the codec of the sound plays that.
    video.addEventListener("loadedmetadata", () => video.videoWidth || fail());
    if (fetched) video.load();
    else if (video.error || video.networkState === NO_SOURCE) fail();
  }
  for (const moment of root.querySelectorAll(".moments [aria-current]")) {
    const [strip, item] = [moment.closest("ol"), moment.parentElement];
    strip.scrollLeft = item.offsetLeft - strip.offsetLeft - (strip.clientWidth - item.clientWidth) / 2;
  }
}

// Stops players and closes their connections: removed from the page they would keep them for a while.
export function stopPlayers(root) {
  for (const video of root.querySelectorAll("video")) {
    video.pause();
    video.removeAttribute("src");
    video.load();
  }
}
