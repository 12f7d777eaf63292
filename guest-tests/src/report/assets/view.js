// Which part of which axis is to be seen, and what is selected. Knows nothing of pixels or of drawing.
const view = { axis: "x", from: 0, to: 1, selected: null, hovered: null, ioEnd: null };

const placeOf = (thing) => thing[view.axis];
const endOf = (thing) => thing[view.axis + "_end"];

// All places of an axis, with a little air at both ends.
function extent(axis) {
  let low = Infinity, high = -Infinity;
  for (const item of items) {
    low = Math.min(low, item[axis]);
    high = Math.max(high, item[axis], item[axis + "_end"] ?? -Infinity);
  }
  if (low > high) return [0, 1];
  const air = Math.max((high - low) * 0.01, axis === "x" ? 1 : 1000);
  return [low - air, high + air];
}
const extents = { x: extent("x"), t: extent("t") };

// Items by place, for each axis: the sequence is the items' own order, time is not.
const order = {
  x: items.map((_, index) => index),
  t: items.map((_, index) => index).sort((a, b) => items[a].t - items[b].t || a - b),
};

// First position in order[axis] whose item lies at or after `place`.
function firstAt(place) {
  const sorted = order[view.axis];
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (items[sorted[middle]][view.axis] < place) low = middle + 1; else high = middle;
  }
  return low;
}

function setWindow(from, to) {
  const [low, high] = extents[view.axis];
  const least = view.axis === "x" ? 4 : 2000;
  const width = Math.min(Math.max(to - from, least), Math.max(high - low, least));
  const middle = (from + to) / 2;
  view.from = Math.min(Math.max(middle - width / 2, low), Math.max(high - width, low));
  view.to = view.from + width;
}

const zoom = (factor, at = (view.from + view.to) / 2) =>
  setWindow(at - (at - view.from) * factor, at + (view.to - at) * factor);
const pan = (by) => setWindow(view.from + by, view.to + by);
const fit = () => setWindow(...extents[view.axis]);

// Brings an item into view without changing the zoom.
function reveal(index) {
  const at = placeOf(items[index]);
  const width = view.to - view.from;
  if (at < view.from + width * 0.08 || at > view.to - width * 0.08) setWindow(at - width / 2, at + width / 2);
}

// Centres an item, close enough to read its neighbours.
function centre(index) {
  const at = placeOf(items[index]);
  const around = order[view.axis].indexOf(index);
  const sorted = order[view.axis];
  const left = placeOf(items[sorted[Math.max(around - 24, 0)]]);
  const right = placeOf(items[sorted[Math.min(around + 24, sorted.length - 1)]]);
  const half = Math.max(at - left, right - at, view.axis === "x" ? 8 : 4000);
  setWindow(at - half, at + half);
}

// Changes the axis and keeps the same events in view.
function setAxis(axis) {
  if (axis === view.axis) return;
  const seen = items.filter((item) => placeOf(item) >= view.from && placeOf(item) <= view.to);
  view.axis = axis;
  if (seen.length === 0 || seen.length === items.length) return fit();
  const places = seen.map(placeOf);
  const low = places.reduce((a, b) => Math.min(a, b)), high = places.reduce((a, b) => Math.max(a, b));
  const air = (high - low) * 0.03;
  setWindow(low - air, high + air);
}
