/** The keyboard on a heatmap. */

const PAGE = 10;
const MOVES = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
  ArrowRight: [0, 1], PageUp: [-PAGE, 0], PageDown: [PAGE, 0],
  Home: [-Infinity, 0], End: [Infinity, 0],
};

/** Moves the cursor of a heatmap, chooses rows, zooms. */
export class Keys {
  constructor(heatmap) {
    this.heatmap = heatmap;
    const {root} = heatmap.labels;
    root.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (this.act(event.key, event.shiftKey)) event.preventDefault();
    });
    root.addEventListener("blur", () => heatmap.leave());
  }

  /** Does what a key stands for; whether it stands for anything. */
  act(key, isFast) {
    const {actions, cursor, picture} = this.heatmap;
    if (!picture.rows.length) return false;
    if (MOVES[key]) this.move(MOVES[key], isFast);
    else if (key === "Enter" || key === " ") {
      actions.choose(picture.rows[cursor.row]);
    } else if ("+-0".includes(key)) {
      const [first, last] = picture.columns[cursor.column] ?? [null, null];
      actions.zoomBy(key, (first + last) / 2);
    } else if (key === "Escape") this.heatmap.leave();
    else return false;
    return true;
  }

  move([rows, columns], isFast) {
    const {heatmap} = this;
    const {cursor, picture} = heatmap;
    const bound = (value, size) => Math.max(0, Math.min(size - 1, value));
    cursor.row = bound(cursor.row + rows, picture.rows.length);
    cursor.column = bound(
      cursor.column + columns * (isFast ? PAGE : 1), picture.columns.length);
    heatmap.reveal(cursor.row);
    heatmap.drawLabels();
    if (!picture.columns.length) return;
    heatmap.point(cursor.row, cursor.column);
    const box = heatmap.cross.getBoundingClientRect();
    heatmap.tip.show(
      picture, cursor.row, cursor.column, box.right, box.bottom);
  }
}
