"""What attempts with tags have cost. The bill knows the keys of tags, and not their users."""

from dataclasses import replace

from api.bill.days import Days
from api.bill.views import own_keys
from api.management.entries import Desk, for_each
from broker.spend_records import Activity, ActivityQuery, Subject


async def sums(desk: Desk, days: Days, ids: tuple[str, ...] = ()) -> list[Activity]:
    """Of the attempts that the caller may see, with these tags or any; the tag is the activity's subject. The same tag
    may come several times, from several keys."""
    query = ActivityQuery(days.start, days.end, Subject.TAG, ids, daily=False)
    keys = await own_keys(desk)
    if keys is None:
        return await desk.store.bill.activity(query)
    found = await for_each(keys, lambda key: desk.store.bill.activity(replace(query, key=key)))
    return [activity for activities in found.values() for activity in activities]
