"""How the report page looks: light and dark after the reader's system, and in print."""

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1c2530; --paper: #ffffff; --line: #d5dbe2; --soft: #f3f6f9; --mark: #1f5fa8;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #dde4ec; --paper: #14191f; --line: #37414d; --soft: #1d242c; --mark: #86b6ee; }
}
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif;
}
main { max-width: 86rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 0.6rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.6rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.5rem 0 0.4rem; }
.verdict {
  font-size: 1.1rem; padding: 0.7rem 1rem;
  background: var(--soft); border-left: 4px solid var(--mark);
}
.note { color: color-mix(in srgb, var(--ink) 75%, var(--paper)); font-size: 0.9rem; }
.wide { overflow-x: auto; margin: 0.5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.88rem; }
th, td {
  padding: 0.3rem 0.65rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top;
}
td { white-space: nowrap; }
td:first-child, td:last-child { white-space: normal; min-width: 7rem; }
th { background: var(--soft); font-weight: 600; }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; background: #ffffff; }
figcaption { font-size: 0.9rem; max-width: 60rem; }
@media print { main { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
"""
