// Where tracks and rows lie on the canvas. Narrow pages put a track's name above it, wide ones beside it.
const layout = { width: 0, height: 0, gutter: 0, top: 40, tracks: [], lanes: [] };
const SINGLE = 20, LANE_GAP = 10, TRACK_GAP = 4, ROWS_HEIGHT = 240;

const rowHeight = (rows) => (rows === 1 ? SINGLE : Math.max(5, Math.min(SINGLE, Math.floor(ROWS_HEIGHT / rows))));

function measure(width) {
  const narrow = width < 640;
  layout.width = width;
  layout.gutter = narrow ? 0 : 132;
  layout.nameHeight = narrow ? 14 : 0;
  layout.tracks = [];
  layout.lanes = [];
  let y = layout.top;
  data.tracks.forEach((track, index) => {
    const lane = layout.lanes.at(-1);
    if (!lane || lane.name !== track.lane) {
      if (lane) y += LANE_GAP;
      layout.lanes.push({ name: track.lane, top: y, bottom: y });
    }
    const row = rowHeight(track.rows);
    const top = y + layout.nameHeight;
    layout.tracks.push({ top, row, bottom: top + row * track.rows, name: track.name, index });
    y = top + row * track.rows + TRACK_GAP;
    layout.lanes.at(-1).bottom = y;
  });
  layout.height = y + 4;
}

const plotWidth = () => layout.width - layout.gutter;
const toPixel = (place) => layout.gutter + ((place - view.from) / (view.to - view.from)) * plotWidth();
const toPlace = (pixel) => view.from + ((pixel - layout.gutter) / plotWidth()) * (view.to - view.from);
const middleOf = (thing) => layout.tracks[thing.track].top + (thing.row ?? 0) * layout.tracks[thing.track].row + layout.tracks[thing.track].row / 2;

// The item nearest to a point, or the item of the bar under it.
function pick(x, y) {
  const track = layout.tracks.find((one) => y >= one.top - 2 && y <= one.bottom + 2);
  if (!track || x < layout.gutter) return null;
  const reach = 9;
  let best = null, least = Infinity;
  const sorted = order[view.axis];
  for (let at = firstAt(toPlace(x - reach)); at < sorted.length; at++) {
    const item = items[sorted[at]];
    const px = toPixel(placeOf(item));
    if (px > x + reach) break;
    if (item.track !== track.index) continue;
    const distance = Math.abs(px - x) + Math.abs(middleOf(item) - y) / 2 + (item.marks ? -0.5 : 0);
    if (distance < least && Math.abs(middleOf(item) - y) <= Math.max(track.row, 8)) [least, best] = [distance, sorted[at]];
  }
  return best ?? barAt(x, y, track);
}

function barAt(x, y, track) {
  for (const bar of data.bars) {
    if (bar.track !== track.index || Math.abs(middleOf(bar) - y) > track.row / 2) continue;
    const right = endOf(bar) === undefined ? layout.width : Math.max(toPixel(endOf(bar)), toPixel(placeOf(bar)) + 3);
    if (x >= toPixel(placeOf(bar)) && x <= right) return bar.item;
  }
  return null;
}
