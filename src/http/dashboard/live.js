// Reads the page again while something goes on, and never while somebody writes, chooses or has a part of it open.
(() => {
  const seconds = Number(document.body.dataset.reload);
  const key = "backstay-scroll " + location.pathname;
  const kept = sessionStorage.getItem(key);
  if (kept) {
    sessionStorage.removeItem(key);
    scrollTo(0, Number(kept));
  }
  const busy = () => {
    const at = document.activeElement;
    const inside = at && at.closest("main") && at.id !== "main";
    const written = [...document.querySelectorAll("main input:not([type=hidden]), main textarea")].some((field) => field.value !== field.defaultValue);
    return document.hidden || inside || written || String(getSelection()) !== "" || document.querySelector("main details[open]");
  };
  setInterval(() => {
    if (busy()) return;
    sessionStorage.setItem(key, String(scrollY));
    location.reload();
  }, seconds * 1000);
})();
