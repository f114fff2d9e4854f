// The copy button of a block of commands with their output copies the commands: no prompts, output or comments.
for (const code of document.querySelectorAll(".highlight code")) {
  if (!code.querySelector(".gp")) continue;
  const commands = code.cloneNode(true);
  for (const element of commands.querySelectorAll(".go, .c1")) element.remove();
  const lines = commands.textContent.split("\n").map((line) => line.trimEnd());
  // Output that begins with "# " is highlighted like a command of root.
  const kept = lines.filter((line) => line && !line.startsWith("# "));
  code.dataset.copy = kept.map((line) => line.replace(/^\$ /, "")).join("\n");
}
