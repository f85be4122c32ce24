// Dark or light: as the system has it, until somebody says otherwise here.

const KEPT = "polyllama-theme";
const NEXT = {system: "light", light: "dark", dark: "system"};
const WORDS = {system: "as the system has it", light: "light", dark: "dark"};

/** Let a button go through the themes. */
export function startTheme(button) {
  let theme = localStorage.getItem(KEPT) in NEXT ? localStorage.getItem(KEPT) : "system";
  const apply = () => {
    document.documentElement.dataset.theme = theme;
    const label = `Colours: ${WORDS[theme]}. Change`;
    button.setAttribute("aria-label", label);
    button.title = label;
    button.querySelector("use").setAttribute("href", `/page/icons.svg#${theme}`);
  };
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    localStorage.setItem(KEPT, theme);
    apply();
  });
  apply();
}
