// Mouse, wheel, touch and keys. Each turns into a change of `view`, a selection, or both.
const pointers = new Map();
let moved = false;

function local(event, target = lanes) {
  const box = target.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

function listen() {
  lanes.addEventListener("pointerdown", pointerDown);
  lanes.addEventListener("pointermove", pointerMove);
  lanes.addEventListener("pointerup", pointerUp);
  lanes.addEventListener("pointercancel", pointerGone);
  lanes.addEventListener("pointerleave", () => hover(null));
  lanes.addEventListener("dblclick", (event) => change(() => zoom(0.4, toPlace(local(event).x))));
  lanes.addEventListener("wheel", wheel, { passive: false });
  lanes.addEventListener("keydown", key);
  for (const kind of ["pointerdown", "pointermove"]) overview.addEventListener(kind, moveOverview);
  byId("zoom-in").addEventListener("click", () => change(() => zoom(0.5)));
  byId("zoom-out").addEventListener("click", () => change(() => zoom(2)));
  byId("fit").addEventListener("click", () => change(fit));
  byId("to-difference").addEventListener("click", toDifference);
  byId("difference-flag").addEventListener("click", toDifference);
  byId("to-fault").addEventListener("click", () => toMark("fault"));
  for (const radio of document.querySelectorAll("input[name=axis]"))
    radio.addEventListener("change", () => change(() => setAxis(radio.value)));
  byId("pick-io-end").addEventListener("change", (event) => pickIoEnd(event.target.value));
}

function change(how) {
  how();
  redraw();
}

function pointerDown(event) {
  if (event.button !== 0) return;
  pointers.set(event.pointerId, local(event));
  moved = pointers.size > 1;
  try {
    lanes.setPointerCapture(event.pointerId);
  } catch {
    // The pointer may be gone already; then it just ends at the edge of the canvas.
  }
}

function pointerMove(event) {
  const now = local(event), before = pointers.get(event.pointerId);
  if (!before) return hover(event.pointerType === "touch" ? null : pick(now.x, now.y), now.x, now.y);
  if (!moved && Math.hypot(now.x - before.x, now.y - before.y) < 4) return;
  moved = true;
  lanes.classList.add("dragging");
  hover(null);
  const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
  if (others.length === 1) pinch(before, now, others[0]);
  else change(() => pan(toPlace(before.x) - toPlace(now.x)));
  pointers.set(event.pointerId, now);
}

// The places under both fingers stay under them.
function pinch(before, now, other) {
  const spread = (point) => Math.max(Math.abs(point.x - other.x), 12);
  const middle = toPlace((before.x + other.x) / 2);
  change(() => {
    zoom(spread(before) / spread(now), middle);
    pan(middle - toPlace((now.x + other.x) / 2));
  });
}

function pointerUp(event) {
  const at = local(event);
  if (pointers.has(event.pointerId) && !moved) {
    const index = pick(at.x, at.y);
    if (index !== null) select(index);
  }
  pointerGone(event);
}

function pointerGone(event) {
  pointers.delete(event.pointerId);
  if (pointers.size === 0) lanes.classList.remove("dragging");
}

// A wheel that only scrolls the page stays the page's, until the timeline has the focus.
function wheel(event) {
  const across = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
  if (!across && !event.ctrlKey && document.activeElement !== lanes) return;
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 16 : 1;
  const delta = (across && event.deltaX !== 0 ? event.deltaX : event.deltaY) * lines;
  if (across) change(() => pan((delta / plotWidth()) * (view.to - view.from)));
  else change(() => zoom(Math.exp(delta * (event.ctrlKey ? 0.008 : 0.0025)), toPlace(local(event).x)));
}

function moveOverview(event) {
  if (event.type === "pointermove" && event.buttons === 0) return;
  const [low, high] = extents[view.axis];
  const at = low + (local(event, overview).x / overview.clientWidth) * (high - low), half = (view.to - view.from) / 2;
  change(() => setWindow(at - half, at + half));
}

const KEYS = {
  "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "0": fit, Home: () => step(-Infinity), End: () => step(Infinity),
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => stepTrack(-1), ArrowDown: () => stepTrack(1),
  d: toDifference, f: () => toMark("fault"), F: () => toMark("fault", -1), Escape: () => select(null),
};

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const sideways = { ArrowLeft: -0.15, ArrowRight: 0.15 }[event.key];
  const action = event.shiftKey && sideways ? () => pan(sideways * (view.to - view.from)) : KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  change(action);
}

// The event before or after in the same track; the first one in view where none is selected.
function step(by) {
  if (items.length === 0) return;
  if (view.selected === null) return select(order[view.axis][Math.min(firstAt(view.from), items.length - 1)]);
  const track = items[view.selected].track;
  const same = order[view.axis].filter((index) => items[index].track === track);
  const at = same.indexOf(view.selected) + by;
  select(same[Math.max(0, Math.min(at, same.length - 1))]);
}

// The nearest event in the next track that has any.
function stepTrack(by) {
  if (view.selected === null) return step(0);
  const here = items[view.selected];
  for (let track = here.track + by; track >= 0 && track < data.tracks.length; track += by) {
    let best = null;
    items.forEach((item, index) => {
      if (item.track !== track) return;
      if (best === null || Math.abs(placeOf(item) - placeOf(here)) < Math.abs(placeOf(items[best]) - placeOf(here))) best = index;
    });
    if (best !== null) return select(best);
  }
}

function toDifference() {
  if (data.difference.length > 0) select(data.difference[0], { centred: true });
}

// The next event with a mark after the selected one, around the end if need be.
function toMark(mark, by = 1) {
  const marked = order[view.axis].filter((index) => has(items[index], mark));
  if (marked.length === 0) return;
  const here = view.selected === null ? view.from : placeOf(items[view.selected]);
  const at = marked.indexOf(view.selected);
  const after = marked.findIndex((index) => placeOf(items[index]) > here);
  const next = at >= 0 ? at + by : by > 0 ? after : after - 1;
  select(marked[(next + marked.length) % marked.length], { centred: at < 0 });
}

function pickIoEnd(value) {
  view.ioEnd = value === "" ? null : Number(value);
  if (view.ioEnd === null) return redraw();
  const places = items.filter((item) => item.io_end === view.ioEnd).map(placeOf);
  const low = places.reduce((a, b) => Math.min(a, b)), high = places.reduce((a, b) => Math.max(a, b));
  const air = Math.max((high - low) * 0.06, view.axis === "x" ? 2 : 1000);
  change(() => setWindow(low - air, high + air));
}
