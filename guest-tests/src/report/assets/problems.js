// A script that fails must say so on the page itself: a half-drawn report looks like a whole one.
function problem(text) {
  const box = document.getElementById("problems");
  box.hidden = false;
  const line = document.createElement("p");
  line.textContent = "This page's script failed, so parts of it are missing: " + text;
  box.append(line);
}
window.addEventListener("error", (event) => problem(event.message + " (line " + event.lineno + ")"));
window.addEventListener("unhandledrejection", (event) => problem(String(event.reason)));
