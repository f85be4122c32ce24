// The panels at both sides: beside the conversation where there is room, else over it.

const NARROW = matchMedia("(max-width: 60rem)");

/** A panel with the button that opens it; `others` is what it covers where there is no room beside it. */
export class Panel {
  constructor({panel, button, others, open}) {
    Object.assign(this, {panel, button, others});
    button.addEventListener("click", () => this.toggle());
    panel.querySelector(".close").addEventListener("click", () => this.close());
    panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation(); // outside, Escape stops an answer
      this.close();
    });
    NARROW.addEventListener("change", () => this.#apply());
    this.#open = open && !NARROW.matches;
    this.#apply();
  }

  #open;

  toggle() {
    if (this.#open) this.close();
    else this.open();
  }

  /** Open it, and go to an element in it. */
  open(target = null) {
    this.#open = true;
    this.#apply();
    (target ?? this.panel.querySelector(".close")).focus();
  }

  /** Close it and go back to its button. */
  close() {
    const within = this.panel.contains(document.activeElement);
    this.#open = false;
    this.#apply();
    if (within) this.button.focus();
  }

  /** Close it where it hides the conversation. */
  makeRoom() {
    if (NARROW.matches && this.#open) this.close();
  }

  #apply() {
    this.panel.hidden = !this.#open;
    this.button.setAttribute("aria-expanded", String(this.#open));
    // What is covered is not there for the keyboard and the screen reader either.
    const covering = NARROW.matches && [...document.querySelectorAll(".panel")].some((panel) => !panel.hidden);
    for (const element of this.others) element.inert = covering;
  }
}
