package topology

import (
	"slices"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// withhold finds what frozen members must not be sent: the versions of accounts
// and streams in which something is missing that a refused object may have put
// there. What only adds is sent.
//
// What a member has at least is known from the plan before; after a start of the
// hub it is not, and then every change of an account or stream is withheld.
func (p *Plan) withhold(prev *Plan) {
	if len(p.Frozen) == 0 {
		return
	}
	p.Withheld, p.memo.before = map[PartRef]bool{}, map[string]map[string]*federationv1.Part{}
	for name := range p.Frozen {
		state := p.Members[name]
		if state == nil {
			continue
		}
		had := partsBefore(prev, name)
		for _, planned := range state.Parts {
			part := planned.Part
			if part.GetAccount() == nil && part.GetStream() == nil {
				continue
			}
			old := had[part.Id]
			switch {
			case had == nil:
				p.Withheld[PartRef{name, part.Id}] = true
			case old != nil && !keepsAll(old, part):
				p.Withheld[PartRef{name, part.Id}] = true
			default:
				had[part.Id] = part
			}
		}
		p.memo.before[name] = had
	}
}

// partsBefore are the accounts and streams of a member as prev has them, in their
// fullest version, for the caller to change; nil: not known.
func partsBefore(prev *Plan, name string) map[string]*federationv1.Part {
	if prev == nil || prev.memo == nil {
		return nil
	}
	out := map[string]*federationv1.Part{}
	if _, frozen := prev.Frozen[name]; frozen {
		before := prev.memo.before[name]
		if before == nil {
			return nil
		}
		for id, part := range before {
			out[id] = part
		}
		return out
	}
	if state := prev.Members[name]; state != nil {
		for _, p := range state.Parts {
			if p.Part.GetAccount() != nil || p.Part.GetStream() != nil {
				out[p.Part.Id] = p.Part
			}
		}
	}
	return out
}

// keepsAll tells whether a version of an account or stream has every import or
// source of another.
func keepsAll(old, now *federationv1.Part) bool {
	if old.Hash == now.Hash {
		return true
	}
	if s := old.GetStream(); s != nil {
		return all(s.Sources, now.GetStream().GetSources()) && (s.Transform == nil || proto.Equal(s.Transform, now.GetStream().GetTransform()))
	}
	return all(old.GetAccount().GetImports(), now.GetAccount().GetImports())
}

// all tells whether each of these is among those.
func all[T proto.Message](these, those []T) bool {
	return !slices.ContainsFunc(these, func(x T) bool {
		return !slices.ContainsFunc(those, func(y T) bool { return proto.Equal(x, y) })
	})
}
