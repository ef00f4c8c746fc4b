"""The look of the report page: one inline style sheet, light, printable, no fonts from elsewhere."""

CSS = """
:root{color-scheme:light;--ink:#1f2933;--muted:#616e7c;--line:#e1e6eb;--soft:#f5f7f9;--main:#0072b2;--good:#00664a;
--note:#0072b2;--warn:#8a5a00;--stop:#a63c00}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0 auto;max-width:1240px;padding:0 28px 48px;background:#fff;color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Noto Naskh Arabic","DejaVu Sans",sans-serif}
h1{font-size:26px;line-height:1.25;margin:30px 0 2px;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 12px;padding-bottom:6px;border-bottom:2px solid var(--line)}
section{margin-top:38px;scroll-margin-top:52px}
p{margin:8px 0;max-width:90ch}
.muted,footer,figcaption,caption,.remark{color:var(--muted);font-size:13px}
nav{position:sticky;top:0;z-index:2;display:flex;flex-wrap:wrap;gap:2px 18px;padding:9px 0;margin-top:18px;
background:#fff;border-bottom:1px solid var(--line);font-size:13.5px}
a{color:var(--main);text-decoration:none}
a:hover{text-decoration:underline}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(204px,1fr));gap:10px;margin:16px 0}
.tile{border:1px solid var(--line);border-radius:8px;padding:10px 13px;background:var(--soft);min-width:0}
.tile .label{color:var(--muted);font-size:12.5px}
.tile .value{font-size:21px;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.notice{display:flex;gap:12px;align-items:baseline;border:1px solid var(--line);border-left:4px solid var(--note);
border-radius:6px;padding:9px 13px;margin:9px 0}
.badge{flex:none;font-size:11px;font-weight:700;letter-spacing:.05em;text-transform:uppercase;color:var(--note);
min-width:38px}
.notice.good{border-left-color:var(--good)}.notice.good .badge{color:var(--good)}
.notice.warn{border-left-color:#e69f00}.notice.warn .badge{color:var(--warn)}
.notice.stop{border-left-color:#d55e00}.notice.stop .badge{color:var(--stop)}
.pictures{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:18px 26px;margin:14px 0;align-items:start}
figure{margin:0;min-width:0}
figure.wide{grid-column:1/-1}
figure img{width:100%;margin:0;height:auto;display:block}
figcaption{margin-bottom:4px}
.beside{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:0 26px;align-items:start}
.scroll{overflow-x:auto;margin:12px 0}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:5px}
th,td{text-align:left;padding:4px 14px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--muted);white-space:nowrap;border-bottom-width:2px}
th.number,td.number{text-align:right}
tr.marked td{background:#fff6e0}
td.share{min-width:120px}
td.share span{display:inline-block;width:46px}
td.share i{display:inline-block;height:9px;background:#9cc7e0;border-radius:2px}
code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
details{margin:12px 0;border:1px solid var(--line);border-radius:6px;padding:0 13px}
summary{cursor:pointer;padding:9px 0;color:var(--main)}
footer{margin-top:44px;border-top:1px solid var(--line);padding-top:10px}
@media(max-width:820px){.pictures,.beside{grid-template-columns:minmax(0,1fr)}body{padding:0 14px 32px}}
@media print{nav{display:none}section{break-inside:avoid-page}body{max-width:none}}
"""
