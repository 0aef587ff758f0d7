"""An alias of a registered model: MLflow holds where it stands, the ledger how it came there; one function changes both."""

from mlflow import MlflowClient

from feature_store.errors import ConflictError
from feature_store.home import ledger_root
from models.ledger import NOBODY, OUTSIDE, Change, Entry, Line, champions

ANY = -1
"""Instead of the number of the version that an alias stands on: whichever it is."""

_LONGEST = 5_000


class Alias:
    """One alias of one registered model.

    The ledger is written first and decides who wins. What was cut short after that is finished by whoever comes next; an alias that
    was set by something else, such as MLflow's page, is entered as found.
    """

    def __init__(self, client: MlflowClient, model: str, alias: str) -> None:
        self.client, self.model, self.alias = client, model, alias
        born = client.get_registered_model(model).creation_timestamp
        self.line = Line(model, alias, int(born), ledger_root())

    def move(self, change: Change) -> None:
        """Make a change; `from_version` may be ANY.

        Raises
        ------
        ConflictError : the alias does not stand on `from_version` (any more), or somebody else changes it at this moment.
        """
        now, count = self._settled()
        if change.from_version not in (ANY, now):
            raise ConflictError(f"{self.model}: alias {self.alias} stands on version {now or '(none)'}, and {change.to_version} "
                                f"was chosen against {change.from_version or '(none)'}; nothing was changed, choose again")
        if now != change.to_version:
            self.line.append(Change(**{**vars(change), "from_version": now}), count)
        self._follow()

    def stood_on(self) -> list[int]:
        """The versions the alias stood on, the present one last (`models.ledger.champions`)."""
        self._settled()
        return champions(self.line.entries())

    def _settled(self) -> tuple[int, int]:
        """The version the alias stands on, and how many entries it has."""
        entries = self.line.entries()
        newest = entries[-1] if entries else Entry(OUTSIDE, NOBODY, NOBODY, "")
        stands = int(self.client.get_registered_model(self.model).aliases.get(self.alias, NOBODY))
        if stands == newest.to_version:
            return stands, len(entries)
        if newest.action != OUTSIDE and not self._done(newest):
            self._follow()
            return newest.to_version, len(entries)
        self.line.append(Change(OUTSIDE, newest.to_version, stands, "found so: it was not set by moveline"), len(entries))
        return stands, len(entries) + 1

    def _done(self, entry: Entry) -> bool:
        tags = self.client.get_model_version(self.model, str(entry.to_version)).tags
        return int(tags.get(f"alias.{self.alias}.entry", 0)) >= entry.entry

    def _follow(self) -> None:
        """Set the alias to what the newest entry says; again when a newer one came in meanwhile."""
        entry, done = self.line.entries()[-1], 0
        while entry.entry != done:
            done, version = entry.entry, str(entry.to_version)
            self.client.set_registered_model_alias(self.model, self.alias, version)
            self.client.set_model_version_tag(self.model, version, f"alias.{self.alias}", entry.reason[:_LONGEST])
            self.client.set_model_version_tag(self.model, version, f"alias.{self.alias}.entry", str(entry.entry))
            entry = self.line.entries()[-1]
