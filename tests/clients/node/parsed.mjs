// The JSON value in a text, or null.
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
