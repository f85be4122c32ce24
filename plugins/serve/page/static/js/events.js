// Server-sent events of a response: EventSource itself cannot post.

/** The data of each event as it comes, until the stream ends. */
export async function* eventData(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // where it was aborted, there is nothing left to cancel
  }
}
