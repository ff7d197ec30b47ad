"""An object of a store as a source of ranges."""

from pathlib import Path

from c2srt.errors import LoaderFailed, UserError
from c2srt.scratch import Place
from c2srt.storage.stores import S3, Web, store_of
from c2srt.storage.web import NoAnswer


class RemoteFile:
    """An object, in the version that it had when it was opened; every read asks for that one.

    Raises FileNotFoundError if it is not there.
    """

    def __init__(self, path: Path, place: Place) -> None:
        self.path, self.place = path, place
        meta = self.store.meta(place.key)
        if meta is None:
            raise FileNotFoundError(2, "it is not there", str(place))
        self.meta, self.size = meta, meta.size

    @property
    def store(self) -> S3 | Web:
        return store_of(self.place.scheme, self.place.bucket)

    def now(self, offset: int, size: int) -> None:
        """Nothing of it is here."""

    def read(self, offset: int, size: int) -> bytes:
        """Raises LoaderFailed if the store does not answer, UserError if it is shorter or has
        changed.
        """
        if offset + size > self.size:
            raise UserError(
                f"{self.place} has {self.size:,} bytes, where its index says that"
                f" {offset + size:,} are there: it was cut short; make it again"
            )
        try:
            return self.store.read(self.place.key, offset, size, self.meta)
        except NoAnswer as error:
            raise LoaderFailed(error) from error
