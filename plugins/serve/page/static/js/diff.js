// Which parts of two answers are the same.

const MOST_PAIRS = 9_000_000; // a table of 18 MB; two answers of 3,000 tokens

/**
 * Mark what two lists have in common, in order: their longest common subsequence.
 *
 * Gives {same: [boolean[], boolean[]], first}: for each list which of its parts the other has too, and the place of
 * the first difference (null where there is none). Where both are too long for the table, all between the common
 * beginning and the common end counts as different.
 */
export function compare(left, right) {
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) start += 1;
  let tail = 0;
  const most = Math.min(left.length, right.length) - start;
  while (tail < most && left[left.length - 1 - tail] === right[right.length - 1 - tail]) tail += 1;
  const same = [left, right].map((list) => list.map((_, place) => place < start || place >= list.length - tail));
  const middle = [left, right].map((list) => list.slice(start, list.length - tail));
  if (middle[0].length * middle[1].length <= MOST_PAIRS) {
    for (const [i, j] of commonPairs(...middle)) same[0][start + i] = same[1][start + j] = true;
  }
  const equal = middle[0].length === 0 && middle[1].length === 0;
  return {same, first: equal ? null : start};
}

/** The places of the longest common subsequence in both lists. */
function* commonPairs(left, right) {
  const width = right.length + 1;
  const longest = new Uint16Array((left.length + 1) * width); // of what begins at (i, j)
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      const here = i * width + j;
      longest[here] = left[i] === right[j]
        ? longest[here + width + 1] + 1
        : Math.max(longest[here + width], longest[here + 1]);
    }
  }
  for (let i = 0, j = 0; i < left.length && j < right.length; ) {
    const here = i * width + j;
    if (left[i] === right[j]) yield [i++, j++];
    else if (longest[here + width] >= longest[here + 1]) i += 1;
    else j += 1;
  }
}

/** The parts of an answer that are compared: its tokens, or its words where the server told no tokens. */
export function partsOf(answer) {
  return answer.tokens.length ? answer.tokens.map((token) => token.text) : answer.text.match(/\s*\S+|\s+$/g) ?? [];
}
