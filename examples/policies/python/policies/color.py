"""color: sends each RPC to the endpoints of its colour, in turn.

The configuration says which metadata key of RPCs is compared with which attribute of endpoints. It also says what
happens to an RPC without a colour, and to one whose colour no ready endpoint has:

    {"metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail"}
"""

from itertools import cycle

import hotpick


class Color:
    def __init__(self, config, where):
        settings = hotpick.read_config(config, metadata="color", attribute="color", missing="any", unmatched="fail")
        for name in ("missing", "unmatched"):
            if settings[name] not in ("any", "fail"):
                hotpick.refuse(f'{name}: must be "any" or "fail"')
        self.key = hotpick.declare_metadata(settings["metadata"])
        self.attribute = settings["attribute"]
        self.missing, self.unmatched = settings["missing"], settings["unmatched"]
        self.colors = {}
        self.members = []
        # Picks so far, from a random start. Rebuilt groups go on from here, not from their first member.
        self.turn = where.seed & 0xFFFF_FFFF
        self.regroup()

    def endpoints(self, added, removed, now):
        for id in removed:
            self.colors.pop(id, None)
        for endpoint in added:
            attributes = {attribute.key: attribute.value for attribute in endpoint.attributes}
            self.colors[endpoint.id] = attributes.get(self.attribute)
        # A ready endpoint may have a new colour. `ready` is called after this only if the ready set changed.
        self.regroup()

    def ready(self, ready, now):
        self.members = ready
        self.regroup()

    def regroup(self):
        groups = {}
        for id in self.members:
            groups.setdefault(self.colors.get(id), []).append(hotpick.pick(id))
        groups.pop(None, None)
        self.groups = {color: self.turns(members) for color, members in groups.items()}
        self.all = self.turns([hotpick.pick(id) for id in self.members])

    def turns(self, members):
        first = self.turn % max(len(members), 1)
        return cycle(members[first:] + members[:first])

    def pick(self, info):
        if not self.members:
            return hotpick.queue()
        self.turn += 1
        color = hotpick.call.metadata(self.key)
        group = self.groups.get(color)
        if group is not None:
            return next(group)
        if (self.missing if color is None else self.unmatched) == "any":
            return next(self.all)
        hotpick.call.explain(
            "the RPC asks for no colour" if color is None else "no endpoint has the colour that the RPC asks for"
        )
        return hotpick.fail(hotpick.FailCode.UNAVAILABLE)


hotpick.export(Color)
