"use strict";
// Loads the page again while the training runs, unless the reader stops it; the address remembers that.
(() => {
  const button = document.querySelector(".renew");
  if (!button) return;
  const paused = () => location.hash === "#paused";
  const show = () => { button.textContent = paused() ? "Renew this page" : "Stop renewing this page"; };
  button.hidden = false;
  button.addEventListener("click", () => { location.hash = paused() ? "" : "#paused"; show(); });
  setInterval(() => { if (!paused()) location.reload(); }, 30000);
  show();
})();
