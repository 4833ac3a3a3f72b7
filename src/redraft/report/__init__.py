"""Reports: run directories as a page with a trace viewer, Markdown and CSV; import and export.

    run directories ──▶ runs ──▶ numbers ──▶ sections ──▶ page (HTML), Markdown, CSV
                          └────▶ traces ─────────────────▲

`docs/report.md` shows what is in a page and how to read it.
"""
