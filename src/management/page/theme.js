// Runs before the first paint, so that a chosen theme does not flash. The choice is `light`, `dark`, or the system's.
const theme = localStorage.getItem("theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
