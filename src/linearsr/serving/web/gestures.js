// Pointers, wheel and keys over panes that show the same place, as moves and zooms.

const STEP = 60;
const MOVES = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };

/**
 * Call back for what a person does over `panes`; two fingers may be on two of them. Points are {x, y} from the left top
 * corner of a pane.
 *   grab(point) -> drag(point) or null   a pointer went down: what follows it, or null to move the picture
 *   move(dx, dy), zoom(factor, point), zoomTo(scale), toggle(point), fit()
 */
export function watch(panes, { grab, move, zoom, zoomTo, toggle, fit }) {
  const held = new Map();
  let drag = null;
  const listen = (kind, action, options) => panes.forEach((pane) => pane.addEventListener(kind, action, options));

  listen("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    held.set(event.pointerId, at(event));
    drag = held.size === 1 ? grab(at(event)) : null;
  });
  listen("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    const now = at(event);
    held.set(event.pointerId, now);
    if (drag) return drag(now);
    const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
    const share = other ? 2 : 1;
    move((now.x - last.x) / share, (now.y - last.y) / share);
    if (other) {
      const apart = (point) => Math.max(Math.hypot(point.clientX - other.clientX, point.clientY - other.clientY), 1);
      zoom(apart(now) / apart(last), { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
    }
  });
  for (const end of ["pointerup", "pointercancel"])
    listen(end, (event) => {
      held.delete(event.pointerId);
      drag = null;
    });
  listen("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    zoom(2 ** ((-event.deltaY * lines) / 300), at(event));
  }, { passive: false });
  listen("dblclick", (event) => toggle(at(event)));
  listen("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const closer = () => zoom(1.5);
    const actions = { "+": closer, "=": closer, "-": () => zoom(1 / 1.5), 0: fit, 1: () => zoomTo(1), 2: () => zoomTo(2) };
    const action = MOVES[event.key] ? () => move(...MOVES[event.key]) : actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function at({ currentTarget, clientX, clientY }) {
  const { left, top } = currentTarget.getBoundingClientRect();
  return { x: clientX - left, y: clientY - top, clientX, clientY };
}
