// The whole run as a thin strip, with a frame around what the lanes show.
const overviewPixel = (place, width) => {
  const [low, high] = extents[view.axis];
  return ((place - low) / (high - low)) * width;
};

// Every item as a thin stroke. The same until axis, width or colours change, so it is drawn once and then copied.
const strip = document.createElement("canvas");
function overviewStrip(width, height) {
  const key = [view.axis, width, window.devicePixelRatio, colours.soft].join(" ");
  if (strip.dataset.key === key) return strip;
  strip.dataset.key = key;
  const ctx = context(strip, width, height);
  ctx.fillStyle = colours.soft;
  ctx.fillRect(0, 0, width, height);
  const heights = { guest: 3, device: 10, replica: 17 };
  const stroke = (colour, wanted, top, size, tall) => {
    ctx.fillStyle = colours[colour];
    for (const item of items) if (wanted(item)) ctx.fillRect(overviewPixel(placeOf(item), width) - (size >> 1), top(item), size, tall);
  };
  for (const lane of Object.keys(heights)) stroke(lane, (item) => laneOf(item) === lane, () => heights[lane], 1, 6);
  stroke("error", (item) => has(item, "error"), (item) => heights[laneOf(item)], 1, 6);
  stroke("fault", (item) => has(item, "fault"), () => 0, 2, height);
  stroke("difference", (item) => has(item, "difference"), () => 0, 4, height);
  return strip;
}

function drawOverview() {
  const width = overview.clientWidth, height = 26;
  const ctx = context(overview, width, height), px = (place) => overviewPixel(place, width);
  ctx.drawImage(overviewStrip(width, height), 0, 0, width, height);
  ctx.fillStyle = colours.focus;
  ctx.globalAlpha = 0.18;
  ctx.fillRect(px(view.from), 0, px(view.to) - px(view.from), height);
  ctx.globalAlpha = 1;
  ctx.strokeStyle = colours.focus;
  ctx.lineWidth = 2;
  ctx.strokeRect(px(view.from) + 1, 1, Math.max(px(view.to) - px(view.from) - 2, 3), height - 2);
}
