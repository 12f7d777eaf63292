// Single events on the canvas: one shape per kind, a ring where something is wrong, a label where there is room.
const SHAPES = {
  init_io_end: "ring", get_io_end: "up", submit_bio: "right", end_bio: "left", put_io_end_defer: "down", put_io_end: "down",
  add_complete_io: "box", convert_unwritten: "diamond", release_io_end: "disc",
};

function shape(ctx, kind, x, y, r, colour) {
  ctx.fillStyle = ctx.strokeStyle = colour;
  ctx.lineWidth = 1.6;
  ctx.beginPath();
  switch (kind) {
    case "ring": ctx.arc(x, y, r, 0, 7); return ctx.stroke();
    case "disc": ctx.arc(x, y, r, 0, 7); return ctx.fill();
    case "box": ctx.rect(x - r, y - r, 2 * r, 2 * r); return ctx.stroke();
    case "diamond": path(ctx, [x, y - r - 1], [x + r + 1, y], [x, y + r + 1], [x - r - 1, y]); return ctx.fill();
    case "up": case "fault": path(ctx, [x, y - r], [x + r, y + r], [x - r, y + r]); return ctx.fill();
    case "down": path(ctx, [x, y + r], [x + r, y - r], [x - r, y - r]); return ctx.fill();
    case "right": path(ctx, [x + r, y], [x - r, y - r], [x - r, y + r]); return ctx.fill();
    case "left": path(ctx, [x - r, y], [x + r, y - r], [x + r, y + r]); return ctx.fill();
    default: ctx.moveTo(x, y - r); ctx.lineTo(x, y + r); return ctx.stroke();
  }
}

function path(ctx, ...points) {
  points.forEach(([x, y], index) => (index ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
  ctx.closePath();
}

// From right to left, so that a label knows how much room it has.
function drawItems(ctx) {
  const nearest = new Map();
  const sorted = order[view.axis], last = firstAt(view.to + 1e-9);
  for (let at = Math.min(last, sorted.length - 1); at >= 0; at--) {
    const index = sorted[at], item = items[index], x = toPixel(placeOf(item));
    if (x > layout.width + 10) continue;
    if (x < layout.gutter - 10) break;
    if (item.kind === "device_request") continue;
    drawItem(ctx, index, item, x, nearest);
  }
  for (const span of spans) drawSpan(ctx, span);
}

// Runs of folios, which have a length without being a life.
const spans = items.filter((item) => item.x_end !== undefined && item.kind !== "device_request");

function drawSpan(ctx, item) {
  const left = toPixel(placeOf(item)), right = toPixel(endOf(item));
  if (right < layout.gutter || left > layout.width) return;
  ctx.fillStyle = colours[laneOf(item)];
  ctx.globalAlpha = dimmed(item) ? 0.15 : 0.6;
  ctx.fillRect(left, middleOf(item) - 2, Math.max(right - left, 2), 4);
  ctx.globalAlpha = 1;
}

function drawItem(ctx, index, item, x, nearest) {
  const key = item.track * 64 + (item.row ?? 0), y = middleOf(item), row = layout.tracks[item.track].row;
  const room = (nearest.get(key) ?? layout.width) - x;
  const loud = item.marks !== undefined || index === view.selected || index === view.hovered;
  if (room < 1.2 && !loud && nearest.has(key)) return;
  nearest.set(key, x);
  const mark = ["difference", "error"].find((one) => has(item, one));
  const colour = colours[mark ?? laneOf(item)];
  const r = Math.min(5, row / 2 - 0.5) * (room < 7 ? 0.65 : 1);
  ctx.globalAlpha = dimmed(item) ? 0.2 : 1;
  shape(ctx, SHAPES[item.kind], x, y, r, colour);
  if (mark || index === view.selected) ring(ctx, x, y, r + 3.5, mark ? colour : colours.ink);
  if (row >= 14 && item.x_end === undefined && room > 24 && room > ctx.measureText(item.label).width + 16 && item.kind !== "op_begins" && item.kind !== "op_ends") {
    ctx.fillStyle = mark ? colour : colours.ink;
    ctx.fillText(item.label, x + r + 4, y + 0.5);
  }
  ctx.globalAlpha = 1;
}

function ring(ctx, x, y, r, colour) {
  ctx.strokeStyle = colour;
  ctx.lineWidth = 2;
  ctx.beginPath();
  ctx.arc(x, y, r, 0, 7);
  ctx.stroke();
}
