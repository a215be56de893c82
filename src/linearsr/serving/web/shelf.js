// Photos that outlive a visit, in the browser's own database. A browser that keeps nothing still shows the page.

const opened = new Promise((resolve) => {
  try {
    const request = indexedDB.open("linearsr", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("photos", { keyPath: "key" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  } catch {
    resolve(null);
  }
});

async function ask(mode, action) {
  const base = await opened;
  if (!base) return null;
  return new Promise((resolve) => {
    const request = action(base.transaction("photos", mode).objectStore("photos"));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  });
}

export const shelf = {
  all: async () => (await ask("readonly", (photos) => photos.getAll())) ?? [],
  keep: (photo) => ask("readwrite", (photos) => photos.put(photo)),
  forget: (key) => ask("readwrite", (photos) => photos.delete(key)),
};
