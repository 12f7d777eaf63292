// Draws the lanes and the overview from `view` and `layout`. Changes neither.
const lanes = byId("lanes"), overview = byId("overview");
let colours = {};

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["paper", "card", "ink", "muted", "line", "soft", "guest", "device", "replica", "fault", "error", "difference", "finding", "on-colour", "focus"])
    colours[name] = style.getPropertyValue("--" + name).trim();
}

function context(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = height + "px";
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  ctx.clearRect(0, 0, width, height);
  ctx.textBaseline = "middle";
  return ctx;
}

const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif";

function draw() {
  const width = byId("stage").clientWidth;
  if (width !== layout.width) measure(width);
  const ctx = context(lanes, layout.width, layout.height);
  ctx.font = FONT;
  drawLanes(ctx);
  drawTicks(ctx);
  ctx.save();
  ctx.beginPath();
  ctx.rect(layout.gutter, 0, plotWidth(), layout.height);
  ctx.clip();
  drawDifference(ctx);
  drawCursor(ctx);
  data.bars.forEach((bar) => drawBar(ctx, bar));
  drawItems(ctx);
  ctx.restore();
  drawNames(ctx);
  drawOverview();
  placeFlag();
  // What is to be seen, for tests and for whoever reads the page by a program.
  lanes.dataset.view = view.axis + " " + Math.round(view.from * 1000) / 1000 + " " + Math.round(view.to * 1000) / 1000;
}

function drawLanes(ctx) {
  for (const lane of layout.lanes) {
    ctx.globalAlpha = 0.07;
    ctx.fillStyle = colours[lane.name];
    ctx.fillRect(0, lane.top - 2, layout.width, lane.bottom - lane.top + 2);
    ctx.globalAlpha = 1;
    ctx.fillRect(0, lane.top - 2, 4, lane.bottom - lane.top + 2);
  }
}

function drawNames(ctx) {
  for (const lane of layout.lanes) {
    const tracks = layout.tracks.filter((track) => data.tracks[track.index].lane === lane.name);
    for (const track of tracks) {
      const first = track === tracks[0];
      const y = layout.gutter ? track.top + Math.min(track.bottom - track.top, SINGLE) / 2 : track.top - layout.nameHeight / 2;
      ctx.fillStyle = first ? colours[lane.name] : colours.muted;
      ctx.font = (first ? "600 " : "") + FONT;
      const text = first ? lane.name + " · " + track.name : track.name;
      const lines = layout.gutter && first ? [lane.name, track.name] : null;
      if (lines && track.bottom - track.top > 30) {
        ctx.fillText(lines[0], 10, y - 1);
        ctx.font = FONT;
        ctx.fillStyle = colours.muted;
        ctx.fillText(lines[1], 10, y + 14);
      } else ctx.fillText(text, 10, y, layout.gutter ? layout.gutter - 14 : undefined);
    }
  }
}

function niceStep(span, wanted) {
  const raw = span / wanted, power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= raw);
}

// Time has round numbers. The sequence has the trace's own numbers, at every n-th event.
function ticks() {
  const wanted = Math.max(2, Math.floor(plotWidth() / 110));
  if (view.axis === "t") {
    const step = niceStep(view.to - view.from, wanted), list = [];
    for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step)
      list.push([at, (at / 1e6).toFixed(Math.max(0, 6 - Math.floor(Math.log10(step)))) + " ms"]);
    return list;
  }
  const list = [];
  const step = Math.max(1, niceStep(view.to - view.from, wanted));
  let next = -Infinity;
  for (let at = firstAt(view.from); at < items.length && items[at].x <= view.to; at++) {
    if (items[at].seq === undefined || items[at].x < next) continue;
    list.push([items[at].x, String(items[at].seq)]);
    next = items[at].x + step;
  }
  return list;
}

function drawTicks(ctx) {
  ctx.fillStyle = colours.muted;
  ctx.strokeStyle = colours.line;
  ctx.lineWidth = 1;
  ctx.textAlign = "left";
  if (layout.gutter) ctx.fillText(view.axis === "x" ? "trace sequence" : "device time", 10, 29);
  for (const [at, text] of ticks()) {
    const x = Math.round(toPixel(at)) + 0.5;
    if (x < layout.gutter) continue;
    ctx.beginPath();
    ctx.moveTo(x, 24);
    ctx.lineTo(x, layout.height);
    ctx.stroke();
    if (x + ctx.measureText(text).width + 4 < layout.width) ctx.fillText(text, x + 4, 29);
  }
}

function drawDifference(ctx) {
  if (data.difference.length === 0) return;
  const all = data.difference.map((index) => toPixel(placeOf(items[index])));
  const left = Math.min(...all), right = Math.max(...all);
  ctx.globalAlpha = 0.16;
  ctx.fillStyle = colours.difference;
  ctx.fillRect(left - 8, 0, right - left + 16, layout.height);
  ctx.globalAlpha = 1;
  ctx.fillRect(all[0] - 1, 0, 2, layout.height);
}

function drawCursor(ctx) {
  for (const [index, alpha] of [[view.hovered, 0.35], [view.selected, 0.9]]) {
    if (index === null) continue;
    ctx.globalAlpha = alpha;
    ctx.strokeStyle = colours.ink;
    ctx.setLineDash([3, 3]);
    ctx.beginPath();
    const x = Math.round(toPixel(placeOf(items[index]))) + 0.5;
    ctx.moveTo(x, 22);
    ctx.lineTo(x, layout.height);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.globalAlpha = 1;
  }
}

const dimmed = (thing) => view.ioEnd !== null && thing.io_end !== view.ioEnd;
const has = (thing, mark) => thing.marks !== undefined && thing.marks.includes(mark);

function drawBar(ctx, bar) {
  const open = endOf(bar) === undefined;
  const left = toPixel(placeOf(bar)), right = open ? layout.width + 20 : Math.max(toPixel(endOf(bar)), left + 3);
  if (right < layout.gutter || left > layout.width) return;
  const track = layout.tracks[bar.track], height = Math.max(3, track.row - 4), top = middleOf(bar) - height / 2;
  const from = Math.max(left, layout.gutter - 10), width = Math.min(right, layout.width + 20) - from;
  const colour = colours[laneOf(items[bar.item])];
  ctx.globalAlpha = dimmed(bar) ? 0.08 : has(bar, "fault") ? 0.4 : 0.22;
  ctx.fillStyle = has(bar, "fault") ? colours.fault : colour;
  if (open) ctx.fillStyle = fading(ctx, ctx.fillStyle);
  ctx.beginPath();
  ctx.roundRect(from, top, width, height, 3);
  ctx.fill();
  ctx.globalAlpha = dimmed(bar) ? 0.3 : 1;
  outline(ctx, bar, from, top, width, height);
  if (bar.track === 0 || laneOf(items[bar.item]) === "device") drawBarText(ctx, bar, left, right, top, height);
  ctx.globalAlpha = 1;
}

// An end that never came fades out at the right edge.
function fading(ctx, colour) {
  const gradient = ctx.createLinearGradient(layout.width - 60, 0, layout.width, 0);
  gradient.addColorStop(0, colour);
  gradient.addColorStop(1, colours.card);
  return gradient;
}

function outline(ctx, bar, x, top, width, height) {
  const mark = ["difference", "error", "fault"].find((one) => has(bar, one));
  if (mark && height > 4) {
    ctx.strokeStyle = colours[mark];
    ctx.lineWidth = 1.5;
    ctx.stroke();
  }
  if (has(bar, "finding")) {
    ctx.fillStyle = colours.finding;
    ctx.fillRect(x, top + height - 3, width, 3);
  }
}

function drawBarText(ctx, bar, left, right, top, height) {
  const from = Math.max(left, layout.gutter) + (has(bar, "fault") ? 13 : 5);
  if (has(bar, "fault")) shape(ctx, "fault", Math.max(left, layout.gutter) + 6, top + height / 2, Math.min(5, height / 2), colours.fault);
  if (height < 11 || right - from < 24) return;
  ctx.fillStyle = has(bar, "error") ? colours.error : has(bar, "fault") ? colours.fault : colours.ink;
  ctx.save();
  ctx.beginPath();
  ctx.rect(from, top, right - from - 4, height);
  ctx.clip();
  ctx.fillText(bar.label, from, top + height / 2 + 0.5);
  ctx.restore();
}

// The flag of the first difference is an element, so that it can be read, focused and pressed.
function placeFlag() {
  const flag = byId("difference-flag");
  if (data.difference.length === 0) return;
  const x = toPixel(placeOf(items[data.difference[0]]));
  const inside = x >= layout.gutter && x <= layout.width;
  flag.hidden = false;
  flag.dataset.inside = inside;
  flag.textContent = inside ? "first difference" : x < layout.gutter ? "◂ first difference" : "first difference ▸";
  const most = layout.width - flag.offsetWidth;
  flag.style.left = Math.max(layout.gutter, Math.min(x, most)) + "px";
}

// One drawing per frame, however many reasons there are.
let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}
