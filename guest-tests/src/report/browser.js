// Plays a person at the page, for browser.rs. Sees only what a person can: the elements, and what the canvas says of itself.
const canvas = document.getElementById("lanes");
const out = document.getElementById("driven");
const say = (...words) => { out.textContent += words.join(" ") + "\n"; };
// Without a screen frames come when they like; here one comes at once.
window.requestAnimationFrame = (draw) => setTimeout(draw, 0);
const frame = () => new Promise((done) => setTimeout(done, 2));
const details = () => document.getElementById("details").textContent;
const seen = () => { const [axis, from, to] = canvas.dataset.view.split(" "); return { axis, from: +from, to: +to, width: to - from }; };

// A sum over the canvas: two pictures of the same thing in other colours differ in it.
function ink() {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((sum, value, index) => (sum + value * (index % 251)) % 1000003, 0);
}

async function press(key, more = {}) {
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
  await frame();
}

async function wheel(more) {
  const box = canvas.getBoundingClientRect();
  canvas.dispatchEvent(new WheelEvent("wheel", { clientX: box.left + 600, clientY: box.top + 80, bubbles: true, cancelable: true, ...more }));
  await frame();
}

async function pointer(type, id, x, y, pointerType = "mouse") {
  const box = canvas.getBoundingClientRect();
  canvas.dispatchEvent(new PointerEvent(type, { pointerId: id, pointerType, button: type === "pointermove" ? -1 : 0, buttons: 1,
    clientX: box.left + x, clientY: box.top + y, bubbles: true }));
  await frame();
}

const line = (what, held, otherwise) => say(held ? what : what + " FAILED: " + otherwise());
const state = () => canvas.dataset.view + " | " + details();

async function drive() {
  await frame();
  const put = (text) => text.startsWith("guest a reference on io_end 2 is dropped by ext4_put_io_end_defer, count 3");
  line("at first: the guest's put is selected, in view", put(details()) && document.getElementById("difference-flag").dataset.inside === "true", state);
  await press("ArrowRight");
  line("right: next event of the track", details().startsWith("guest") && !put(details()), state);
  await press("ArrowLeft");
  line("left: back", put(details()), state);
  await press("ArrowDown");
  line("down: other track", details().startsWith("device"), state);
  await press("Escape");
  line("escape: nothing selected", details().startsWith("Select an event"), state);
  await press("d");
  line("d: the difference again", put(details()), state);
  let before = seen();
  await press("+");
  line("plus: narrower", seen().width < before.width, state);
  before = seen();
  await press("-");
  line("minus: wider", seen().width > before.width, state);
  await press("0");
  line("0: everything", seen().width > before.width && seen().width > 100, state);
  await press("f");
  line("f: a fault", details().includes("fault slow"), state);
  before = seen();
  document.activeElement.blur();
  await wheel({ deltaY: 100 });
  line("plain wheel without focus: unchanged", seen().from === before.from && seen().to === before.to, state);
  await wheel({ deltaY: -60, ctrlKey: true });
  line("ctrl wheel: narrower", seen().width < before.width, state);
  before = seen();
  await wheel({ deltaY: 60, shiftKey: true });
  line("shift wheel: moved right", seen().from > before.from && Math.abs(seen().width - before.width) < 0.01, state);
  before = seen();
  await pointer("pointerdown", 1, 500, 90);
  await pointer("pointermove", 1, 560, 90);
  await pointer("pointerup", 1, 560, 90);
  line("drag: moved left", seen().from < before.from && Math.abs(seen().width - before.width) < 0.01, state);
  before = seen();
  await pointer("pointerdown", 2, 500, 90, "touch");
  await pointer("pointerdown", 3, 600, 90, "touch");
  await pointer("pointermove", 3, 800, 90, "touch");
  await pointer("pointerup", 2, 500, 90, "touch");
  await pointer("pointerup", 3, 800, 90, "touch");
  line("pinch: narrower", seen().width < before.width, state);
  await press("d");
  await press("Escape");
  const flag = document.getElementById("difference-flag").getBoundingClientRect(), box = canvas.getBoundingClientRect();
  const rows = [...Array(40).keys()].map((n) => 45 + n * 5);
  for (const y of rows) {
    if (!details().startsWith("Select an event")) break;
    await pointer("pointerdown", 4, flag.left - box.left, y);
    await pointer("pointerup", 4, flag.left - box.left, y);
  }
  line("click: selects", !details().startsWith("Select an event"), state);
  for (const y of rows) {
    if (!document.getElementById("hover").hidden) break;
    await pointer("pointermove", 5, flag.left - box.left, y);
  }
  line("hover: tells", document.getElementById("hover").textContent.length > 5, state);
  document.querySelector("input[name=axis][value=t]").click();
  await frame();
  line("device time: axis t", seen().axis === "t" && seen().width > 1000, state);
  const text = document.getElementById("table-text");
  text.value = "io_end 2 is born";
  text.dispatchEvent(new Event("input", { bubbles: true }));
  line("table: filtered", document.querySelectorAll("#table tbody tr").length === 2, () => document.getElementById("table").textContent);
  const story = document.getElementById("io_end-1");
  story.open = true;
  await new Promise((done) => setTimeout(done, 50));
  line("story: opened", story.querySelectorAll("tbody tr").length === 3, () => story.outerHTML);
}
