// What is known of one event: in the panel when it is selected, beside the pointer when it is hovered.
function select(index, { centred = false, scroll = false } = {}) {
  view.selected = index;
  if (index !== null) (centred ? centre : reveal)(index);
  showDetails(index);
  markRow(index);
  remember(index);
  if (scroll) byId("timeline").scrollIntoView({ block: "start" });
  redraw();
}

// A link to this event, for the address line; a page may be denied that.
function remember(index) {
  try {
    history.replaceState(null, "", index === null ? "#timeline" : "#event=" + index);
  } catch {
    // Some viewers of local files refuse. Then there is no such link, and all else works.
  }
}

const NAMES = { at: "trace sequence", cause: "caused by", time: "device time" };

function showDetails(index) {
  const panel = byId("details");
  if (index === null) {
    panel.replaceChildren(el("p", { class: "muted" }, "Select an event to see all that is known of it."));
    return;
  }
  const item = items[index], lane = laneOf(item);
  panel.replaceChildren(
    el("p", {}, el("strong", { class: lane + "-ink" }, lane), " ", item.text, " ", ...chips(item.marks)),
    el("div", { class: "fields" }, ...fieldsOf(item).map(([key, value]) =>
      el("div", {}, el("span", { class: "muted" }, key), el("span", { class: "mono" }, value)))),
    el("p", { class: "buttons" },
      el("button", { type: "button", disabled: index === 0, onclick: () => select(index - 1) }, "◂ Event before"),
      el("button", { type: "button", disabled: index === items.length - 1, onclick: () => select(index + 1) }, "Event after ▸"),
      item.io_end === undefined ? null
        : el("button", { type: "button", onclick: () => openStory(item.io_end) }, "Story of io_end " + item.io_end)),
  );
}

function fieldsOf(item) {
  const fields = [];
  if (item.seq !== undefined) fields.push([laneOf(item) === "replica" ? NAMES.cause : NAMES.at, String(item.seq)]);
  if (item.device !== undefined) fields.push(["device request", String(item.device)]);
  if (data.has_time) fields.push([NAMES.time, (laneOf(item) === "device" ? "" : "≈ ") + timeText(item.t)]);
  fields.push(["event", item.kind]);
  for (const key of ["io_end", "bio", "request"])
    if (item[key] !== undefined && !(key in (item.fields ?? {}))) fields.push([key, String(item[key])]);
  for (const [key, value] of Object.entries(item.fields ?? {}))
    fields.push([key, typeof value === "string" ? value : JSON.stringify(value)]);
  return fields;
}

function hover(index, x, y) {
  const box = byId("hover");
  if (index !== view.hovered) {
    view.hovered = index;
    redraw();
  }
  box.hidden = index === null;
  if (index === null) return;
  const item = items[index];
  box.textContent = item.text + (item.seq === undefined ? "" : " · at " + item.seq);
  box.style.left = Math.max(0, Math.min(x + 14, layout.width - box.offsetWidth - 4)) + "px";
  box.style.top = (y + 18 + box.offsetHeight > layout.height ? y - box.offsetHeight - 10 : y + 18) + "px";
}
