// Before the first paint: the theme this visitor chose, if any; the system's otherwise.
(function () {
  try {
    var chosen = localStorage.getItem("kubeedge-console-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch (_) { /* storage is off: the system's theme it is */ }
  // A file that did not come (the server restarts just now, or this machine's network changes: browsers
  // then drop what is under way) must not leave a page that waits for ever.
  function again() {
    var waiting = document.querySelector("#app > .boot");
    if (!waiting) return;
    waiting.textContent = "Not all files of this page have come. Trying again …";
    setTimeout(function () { location.reload(); }, 1000);
  }
  addEventListener("error", function (event) {
    if (event.target && event.target.tagName === "SCRIPT") again();
  }, true);
  setTimeout(again, 10000);
})();
