// The theme that was chosen, before anything is drawn: "light", "dark", or nothing for the system's.
"use strict";
{
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
