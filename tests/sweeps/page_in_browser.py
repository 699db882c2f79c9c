"""Opens one page in Qt's Chromium, as a person would, and prints what it saw as JSON.

A process of its own: a Qt application lives once per process, and a renderer that crashes takes it along.

    python page_in_browser.py '{"url": ..., "picture": ..., "width": 1500, "height": 1100,
                                "ready": "JavaScript", "ask": "JavaScript", "pdf": null}'

`ready` is asked twice a second until it holds; then `ask` is evaluated and a picture taken. With `pdf`, the
page is also printed on A4 and the text of every sheet is read back.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QSG_RHI_BACKEND", "software")
# Software WebGL, for MLflow's parallel coordinates; a container has no user namespaces for the sandbox.
os.environ.setdefault(
    "QTWEBENGINE_CHROMIUM_FLAGS",
    "--no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist",
)

from PySide6.QtCore import QMarginsF, QTimer, QUrl
from PySide6.QtGui import QPageLayout, QPageSize
from PySide6.QtPdf import QPdfDocument
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication

ASKS_EVERY_MS, SETTLES_MS, PATIENCE_MS = 500, 1500, 90_000


class Visit:
    """One page from loading to its picture."""

    def __init__(self, order):
        self.order, self.seen = order, {}
        self.app = QApplication([])
        self.view = QWebEngineView()
        self.view.resize(order["width"], order["height"])
        self.view.show()
        self.page = self.view.page()

    def run(self):
        self.view.loadFinished.connect(lambda _: self.ask_whether_ready())
        self.view.load(QUrl(self.order["url"]))
        QTimer.singleShot(PATIENCE_MS, lambda: self.app.exit(1))
        status = self.app.exec()
        print(json.dumps(self.seen))
        return status

    def ask_whether_ready(self):
        # A function, not a method: PySide calls back no bound ones.
        self.page.runJavaScript(f"Boolean({self.order['ready']})", lambda ready: self.go_on_or_wait(ready))

    def go_on_or_wait(self, ready):
        if ready:
            QTimer.singleShot(SETTLES_MS, self.ask)
        else:
            QTimer.singleShot(ASKS_EVERY_MS, self.ask_whether_ready)

    def ask(self):
        seen = f"{{document: document.documentElement.outerHTML, answer: {self.order['ask'] or 'null'}}}"
        self.page.runJavaScript(f"JSON.stringify({seen})", lambda answer: self.keep(answer))

    def keep(self, answer):
        self.seen.update(json.loads(answer))
        self.view.grab().save(self.order["picture"])
        if self.order["pdf"] is None:
            self.app.exit(0)
            return
        self.page.pdfPrintingFinished.connect(self.read_print)
        sheet = QPageLayout(
            QPageSize(QPageSize.PageSizeId.A4), QPageLayout.Orientation.Portrait, QMarginsF(10, 10, 10, 10)
        )
        self.page.printToPdf(self.order["pdf"], sheet)

    def read_print(self, _path, printed):
        assert printed, "the page could not be printed"
        document = QPdfDocument()
        document.load(self.order["pdf"])
        self.seen["sheets"] = [document.getAllText(sheet).text() for sheet in range(document.pageCount())]
        self.app.exit(0)


if __name__ == "__main__":
    sys.exit(Visit(json.loads(sys.argv[1])).run())
