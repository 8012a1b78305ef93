// Runs before the first paint, as a classic script, so that a chosen theme never flashes the other
// one. Without a choice nothing is set, and the style sheet follows the system.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("amaima.theme");
  } catch {
    // Storage is switched off: follow the system.
  }
  if (chosen === "light" || chosen === "dark") {
    document.documentElement.dataset.theme = chosen;
  }
})();
