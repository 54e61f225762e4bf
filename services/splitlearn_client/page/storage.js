/** The browser's storage. It may be forbidden, and it may be full: then a value is not kept, and the caller learns it. */

function guarded(find) {
  let storage;
  try {
    storage = find();
  } catch {
    // blocked by the browser's settings; without it everything lives as long as the tab
    storage = null;
  }
  return {
    keys: () => (storage ? Object.keys(storage) : []),
    get: (key) => storage?.getItem(key) ?? null,
    remove: (key) => storage?.removeItem(key),
    /** Returns whether there was room. */
    set(key, value) {
      try {
        storage?.setItem(key, value);
        return storage !== null;
      } catch (error) {
        if (error.name === "QuotaExceededError") return false;
        throw error;
      }
    },
  };
}

export const local = guarded(() => localStorage);
export const session = guarded(() => sessionStorage);

/** The JSON value under a key; null if there is none. */
export function read(key) {
  try {
    return JSON.parse(local.get(key));
  } catch {
    return null;
  }
}
