// Conversations kept in this browser, in IndexedDB: localStorage ends at 5 MB, which probabilities fill quickly.

const NAME = "polyllama";
const STORE = "conversations";

/** Kept conversations. `changed` is called when another tab has kept or removed one. */
export class Store {
  #database = null;
  #others = new BroadcastChannel(NAME);

  constructor(changed) {
    this.#others.onmessage = (event) => changed(event.data);
  }

  /** Every conversation. */
  async all() {
    return (await this.#run("readonly", (store) => store.getAll())).map(settled);
  }

  async put(conversation) {
    await this.#run("readwrite", (store) => store.put(conversation));
    this.#others.postMessage(conversation.id);
  }

  async remove(id) {
    await this.#run("readwrite", (store) => store.delete(id));
    this.#others.postMessage(id);
  }

  async #run(mode, action) {
    this.#database ??= await opened();
    const transaction = this.#database.transaction(STORE, mode);
    const result = action(transaction.objectStore(STORE));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(result.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  }
}

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, {keyPath: "id"});
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** What was being written when its tab was closed is not being written any more. */
function settled(conversation) {
  for (const turn of Object.values(conversation.turns)) {
    for (const answer of turn.answers) {
      if (answer.state === "waiting" || answer.state === "running") answer.state = "stopped";
    }
  }
  return conversation;
}
