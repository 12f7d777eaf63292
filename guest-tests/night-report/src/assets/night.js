"use strict";
// Copies commands. The page can be read without it; a button without a script would be a lie, so it shows here.
for (const button of document.querySelectorAll("button.copy")) button.hidden = false;
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "copied";
  } catch {
    // Pages from a file may not be allowed to: then the old way, and at last by hand.
    getSelection().selectAllChildren(code);
    button.textContent = document.execCommand("copy") ? "copied" : "selected; copy it with ctrl-c";
  }
});
document.documentElement.dataset.ready = "yes";
