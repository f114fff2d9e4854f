// The copy button of a block of commands with their output copies the commands: no prompts, output or comments.
for (const code of document.querySelectorAll(".highlight code")) {
  if (!code.querySelector(".gp")) continue;
  const commands = code.cloneNode(true);
  for (const element of commands.querySelectorAll(".gp, .go, .c1")) element.remove();
  const lines = commands.textContent.split("\n").map((line) => line.trimEnd());
  code.dataset.copy = lines.filter((line) => line).join("\n");
}
