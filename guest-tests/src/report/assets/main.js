// Starts the page: the first difference if there is one, else everything; or what the address line names.
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function recolour() {
  document.documentElement.dataset.scheme = dark.matches ? "dark" : "light";
  readColours();
  redraw();
}

async function copy() {
  const text = byId("repeat").textContent;
  try {
    await navigator.clipboard.writeText(text);
    byId("copied").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(byId("repeat"));
    byId("copied").textContent = document.execCommand("copy") ? "copied" : "selected; copy it with ctrl-c";
  }
}

function listenPage() {
  byId("copy")?.addEventListener("click", copy);
  for (const button of document.querySelectorAll("[data-goto]"))
    button.addEventListener("click", () => select(Number(button.dataset.goto), { centred: true, scroll: true }));
  for (const button of document.querySelectorAll("[data-story]"))
    button.addEventListener("click", () => openStory(Number(button.dataset.story)));
  dark.addEventListener("change", recolour);
  window.addEventListener("resize", redraw);
  window.addEventListener("hashchange", followAddress);
}

// #event=12, #io_end=3
function followAddress() {
  const [, what, number] = /^#(event|io_end)=(\d+)$/.exec(location.hash) ?? [];
  if (what === "event" && items[number]) select(Number(number), { centred: true, scroll: true });
  else if (what === "io_end") openStory(Number(number));
  else return false;
  return true;
}

function start() {
  const empty = items.length === 0;
  byId("to-difference").disabled = data.difference.length === 0;
  byId("to-fault").disabled = !items.some((item) => has(item, "fault"));
  document.querySelector("input[name=axis][value=t]").disabled = !data.has_time;
  listen();
  listenPage();
  listenTable();
  listStories();
  fit();
  showDetails(null);
  if (empty) byId("details").replaceChildren(el("p", {}, "There is nothing on the timeline: neither a trace nor a device record."));
  filterTable();
  recolour();
  draw();
  const first = data.difference[0];
  if (!followAddress() && first !== undefined) {
    view.selected = first;
    centre(first);
    showDetails(first);
    if (items[first].io_end !== undefined) openStory(items[first].io_end, { scroll: false });
    draw();
  }
  document.documentElement.dataset.ready = "yes";
}
start();
