// The conversations that are kept, at the side: open, rename, remove.

import {titleOf} from "./conversation.js";
import {h, iconButton} from "./dom.js";

/** The list. `actions`: open(id), rename(id, title), remove(id). */
export class ConversationList {
  constructor(element, actions) {
    Object.assign(this, {element, actions});
  }

  /** Show conversations, one of them as the open one. */
  show(conversations, open) {
    this.element.replaceChildren(...conversations.map((one) => this.#item(one, one.id === open)));
  }

  /** Go to a conversation in the list. */
  focus(id) {
    this.element.querySelector(`[data-id="${CSS.escape(id)}"]`)?.focus();
  }

  #item(conversation, open) {
    const {actions} = this;
    const title = titleOf(conversation);
    const button = h(
      "button",
      {
        type: "button",
        class: "title",
        "data-id": conversation.id,
        "aria-current": open ? "true" : null,
        onclick: () => actions.open(conversation.id),
      },
      title,
    );
    const item = h(
      "li",
      {},
      button,
      iconButton("edit", `Rename “${title}”`, () => this.#rename(item, conversation, title)),
      iconButton("remove", `Delete “${title}”`, () => actions.remove(conversation.id)),
    );
    return item;
  }

  #rename(item, conversation, title) {
    const input = h("input", {"aria-label": "Title", maxlength: "200"});
    input.value = title;
    let done = false;
    const end = (keep) => {
      if (done) return; // going back to the list takes the focus away, which would end it again
      done = true;
      this.actions.rename(conversation.id, keep ? input.value.trim() : conversation.title);
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault(); // the title is a button, and would be pressed by the rest of this press
        end(true);
      }
      if (event.key === "Escape") {
        event.stopPropagation();
        end(false);
      }
    });
    input.addEventListener("blur", () => end(true));
    item.replaceChildren(input);
    input.focus();
    input.select();
  }
}
