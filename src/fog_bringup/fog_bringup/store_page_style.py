"""CSS of the page about an episode store, beyond that of the report."""

from __future__ import annotations

from fog_bringup.report_theme import DARK, LIGHT

STYLE = (
    f":root {{ --orange: {LIGHT.orange}; --green: {LIGHT.green}; }}\n"
    "@media (prefers-color-scheme: dark) { "
    f":root {{ --orange: {DARK.orange}; --green: {DARK.green}; }} }}\n"
    """
main { max-width: 1240px; }
.facts { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr));
  margin: 1.4rem 0 0; }
.facts .card { border-left-width: 1px; padding: 10px 14px; }
.facts .card .figure { font-size: 1.3rem; margin: .15rem 0; }
.facts .card h3 { font-weight: 500; color: var(--muted); }
.warnings { padding: 0; margin: .6rem 0; list-style: none; }
.warnings li { border: 1px solid var(--line); border-left: 5px solid var(--orange);
  border-radius: 6px; background: var(--card); padding: 7px 12px; margin: 6px 0;
  overflow-wrap: anywhere; }
.warnings.notes li { border-left-color: var(--muted); color: var(--muted); }
.warnings.none li { border-left-color: var(--yes); }
.plots { display: grid; gap: 10px 22px; margin: .7rem 0 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.plots figure { margin: 0; min-width: 0; display: flex; flex-direction: column;
  justify-content: flex-end; }
.plots figcaption { font-size: .8rem; margin: 0 0 2px; color: var(--ink); max-width: none; }
.plots figcaption span { color: var(--muted); }
.plots svg { display: block; width: 100%; height: auto; overflow: visible; }
.key { white-space: nowrap; margin-right: .8em; }
svg.swatch { display: inline-block; width: 24px; height: 6px; vertical-align: middle; }
.sheet { display: grid; gap: 4px; margin: .6rem 0 0;
  grid-template-columns: repeat(auto-fill, minmax(86px, 1fr)); }
.sheet div { font-size: .7rem; color: var(--muted); text-align: center; line-height: 1.5;
  font-variant-numeric: tabular-nums; }
.sheet img { display: block; width: 100%; height: auto; image-rendering: pixelated;
  border-radius: 3px; }
section.episode { border-top: 1px solid var(--line); margin-top: 1.6rem; padding-top: .9rem;
  content-visibility: auto; contain-intrinsic-size: auto 640px; }
section.episode h3 { margin: 0; font-size: 1.02rem; overflow-wrap: anywhere; }
.about { color: var(--muted); font-size: .84rem; margin: .15rem 0 0; max-width: none; }
.chip { display: inline-block; border-radius: 99px; border: 1px solid; padding: 0 .6em;
  font-size: .74rem; font-weight: 600; line-height: 1.55; vertical-align: middle; }
.training { color: var(--blue); } .validation { color: var(--orange); }
.success { color: var(--yes); } .failure { color: var(--no); } .open { color: var(--muted); }
.long { max-height: 460px; overflow: auto; border: 1px solid var(--line); border-radius: 8px;
  padding: 0 14px; } .long table { margin: 0; width: 100%; }
.long th, .long td, .side th { white-space: nowrap; }
.long thead th { position: sticky; top: 0; background: var(--page); padding-top: 8px; }
@media (max-width: 640px) { main { padding: 22px 14px 60px; }
  .sheet { grid-template-columns: repeat(auto-fill, minmax(68px, 1fr)); }
  th, td { padding-right: 12px; } }
"""
)
