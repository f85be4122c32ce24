// A conversation: a tree of turns, of which one path is shown. Editing and retrying add a branch, nothing is lost.

/** A new, empty one with these settings and models. */
export function newConversation(settings, models) {
  const now = Date.now();
  return {
    id: newId(),
    title: "",
    created: now,
    changed: now,
    settings: structuredClone(settings),
    models: structuredClone(models),
    turns: {},
    leaf: null,
  };
}

/** A name that no other conversation has; crypto.randomUUID is missing where the page came by plain HTTP. */
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The turns from the first to the last one shown. */
export function path(conversation) {
  const found = [];
  for (let turn = conversation.turns[conversation.leaf]; turn; turn = conversation.turns[turn.parent]) found.push(turn);
  return found.reverse();
}

/** Add a turn after another (null for the beginning), asked with the present settings, and show it. */
export function addTurn(conversation, parent, user) {
  const id = String(Object.keys(conversation.turns).length + 1);
  const turn = {id, parent, user, settings: structuredClone(conversation.settings), answers: []};
  conversation.turns[turn.id] = turn;
  conversation.leaf = turn.id;
  conversation.changed = Date.now();
  return turn;
}

/** The turns that stand at the place of this one: the same question asked again, or edited. */
export function versions(conversation, turn) {
  return Object.values(conversation.turns).filter((other) => other.parent === turn.parent);
}

/** Show another version of a turn, with what was last said after it. */
export function show(conversation, turn) {
  let last = turn;
  for (;;) {
    const after = Object.values(conversation.turns).filter((other) => other.parent === last.id);
    if (!after.length) break;
    last = after.at(-1);
  }
  conversation.leaf = last.id;
}

/** What a column has said and been asked before a turn, and that turn's question: [{role, content}, ...]. */
export function messagesUntil(conversation, turn, column) {
  const found = [];
  for (const one of path(conversation)) {
    const question = {role: "user", content: one.user};
    if (one.id === turn.id) return [...found, question];
    // A turn from before the second column was there has one answer, which both go on from.
    const answer = one.answers[column] ?? one.answers[0];
    // Where none came, the question is left out too: templates want question and answer to take turns.
    if (answer?.text) found.push(question, {role: "assistant", content: answer.text});
  }
  return found;
}

/** Its title: the one that was given, or how it begins. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = Object.values(conversation.turns)[0]?.user.trim().replace(/\s+/g, " ");
  if (!first) return "New conversation";
  return first.length > 60 ? `${first.slice(0, 59)}…` : first;
}
