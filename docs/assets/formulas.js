// Formulas as pymdownx.arithmatex marks them, \(...\) and \[...\].
for (const element of document.querySelectorAll(".arithmatex")) {
  const source = element.textContent;
  katex.render(source.slice(2, -2), element, { displayMode: source.startsWith("\\["), throwOnError: false });
}
