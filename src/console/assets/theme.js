// Before the first paint: the theme this visitor chose, if any; the system's otherwise.
(function () {
  try {
    var chosen = localStorage.getItem("kubeedge-console-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch (_) { /* storage is off: the system's theme it is */ }
})();
