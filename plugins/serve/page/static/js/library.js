// The conversations that are kept: loaded, kept again, renamed, removed, exported, imported; their list at the side.

import {titleOf} from "./conversation.js";
import {byId} from "./dom.js";
import {download, exported, imported} from "./exchange.js";
import {ConversationList} from "./list.js";
import {Store} from "./store.js";

/**
 * All kept conversations. `page`: conversation (the open one), running (whether it is being written),
 * open(conversation), begin(), enter().
 */
export class Library {
  #kept = [];

  constructor(page, notices) {
    Object.assign(this, {page, notices});
    this.store = new Store((id) => this.#changedElsewhere(id));
    this.list = new ConversationList(byId("conversations"), {
      open: (id) => this.#open(id),
      rename: (id, title) => this.#rename(id, title),
      remove: (id) => this.#remove(id),
    });
    byId("export").addEventListener("click", () => this.#export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
  }

  async load() {
    try {
      this.#kept = await this.store.all();
    } catch (error) {
      this.notices.problem(`this browser keeps no conversations: ${error.message}`);
    }
  }

  /** Keep a conversation in the browser, once something was said in it. */
  async keep(conversation) {
    if (!Object.keys(conversation.turns).length) return;
    if (!this.#kept.includes(conversation)) this.#kept.push(conversation);
    try {
      await this.store.put(conversation);
    } catch (error) {
      this.notices.problem(`the browser does not keep this conversation: ${error.message}`);
    }
  }

  /** Show the list, the last changed first. */
  draw() {
    this.#kept.sort((one, other) => other.changed - one.changed);
    this.list.show(this.#kept, this.page.conversation.id);
  }

  #find(id) {
    return this.#kept.find((one) => one.id === id);
  }

  #open(id) {
    if (this.page.running) {
      this.notices.remark("An answer is being written; stop it first");
      return;
    }
    this.page.open(this.#find(id));
    this.page.enter();
  }

  #rename(id, title) {
    const conversation = this.#find(id);
    conversation.title = title;
    this.keep(conversation);
    this.draw();
    this.list.focus(id);
  }

  async #remove(id) {
    if (this.page.running && id === this.page.conversation.id) {
      this.notices.remark("An answer is being written; stop it first");
      return;
    }
    const conversation = this.#find(id);
    this.#kept = this.#kept.filter((one) => one !== conversation);
    if (id === this.page.conversation.id) this.page.begin();
    else this.draw();
    try {
      await this.store.remove(id);
    } catch (error) {
      this.notices.problem(`the browser still keeps “${titleOf(conversation)}”: ${error.message}`);
      return;
    }
    this.notices.offer(`Deleted “${titleOf(conversation)}”`, "Undo", () => {
      this.keep(conversation);
      this.draw();
      this.list.focus(id);
    });
  }

  #export() {
    if (!this.#kept.length) {
      this.notices.remark("There is no conversation to export");
      return;
    }
    const day = new Date().toISOString().slice(0, 10);
    download(`polyllama-conversations-${day}.json`, exported(this.#kept));
  }

  async #import(input) {
    try {
      for (const file of input.files) {
        const found = imported(await file.text());
        for (const conversation of found) await this.store.put(conversation);
        this.#kept.push(...found);
        this.notices.remark(found.length === 1 ? "1 conversation imported" : `${found.length} conversations imported`);
      }
    } catch (error) {
      this.notices.problem(`nothing was imported: ${error.message}`);
    }
    input.value = ""; // so that the same file can be taken again
    this.draw();
  }

  /** Another tab has kept or removed a conversation. */
  async #changedElsewhere(id) {
    if (this.page.running) return; // what is being written here is kept when it is done
    const open = this.page.conversation;
    const kept = await this.store.all();
    // The open one stays the object that is written into, unless it is the one that has changed.
    this.#kept = kept.map((one) => (one.id === open.id && id !== open.id ? open : one));
    const changed = this.#find(id);
    if (changed && id === open.id) this.page.open(changed);
    else this.draw();
  }
}
