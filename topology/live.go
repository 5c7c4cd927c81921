package topology

import (
	"slices"

	"github.com/sealane/sealane/api/v1alpha1"
)

// live is what an Events or Requests bridge carries.
type live struct {
	subjects []string           // none covers another
	renames  map[string]*rename // by subject
}

func newLive(b *bridge) *live {
	spec, rep := b.object.Spec, b.report
	l := &live{renames: map[string]*rename{}}
	if len(spec.Subjects) == 0 {
		rep.refuse("spec.subjects", v1alpha1.ReasonInvalidValue, "a bridge of type %s needs subjects", spec.Type)
	}
	if spec.Stream != nil {
		rep.refuse("spec.stream", v1alpha1.ReasonInvalidValue, "stream is for bridges of type Stream and Queue")
	}
	for i, s := range spec.Subjects {
		if msg := checkLiveSubject(s); msg != "" {
			rep.refuse(index("spec.subjects", i), v1alpha1.ReasonInvalidSubject, "%s", msg)
		}
	}
	if len(spec.Rename) > 0 && spec.Type == v1alpha1.BridgeRequests {
		rep.refuse("spec.rename", v1alpha1.ReasonInvalidValue, "rename is for Events, Stream and Queue: a responder must hear the subject that was asked")
		return l
	}
	for i, r := range spec.Rename {
		field := index("spec.rename", i)
		if !slices.Contains(spec.Subjects, r.From) {
			rep.refuse(field+".from", v1alpha1.ReasonInvalidSubject, "%s is none of the bridge's subjects: add it there", r.From)
			continue
		}
		if l.renames[r.From] != nil {
			rep.refuse(field+".from", v1alpha1.ReasonInvalidSubject, "%s is renamed twice: keep one rule", r.From)
			continue
		}
		parsed, msg := parseRename(r, true)
		if msg != "" {
			rep.refuse(field, v1alpha1.ReasonInvalidSubject, "%s", msg)
			continue
		}
		l.renames[r.From] = parsed
		for _, o := range b.from.list() {
			if msg := checkLiveSubject(parsed.pattern(b.fabric.names[o])); msg != "" {
				rep.refuse(field+".to", v1alpha1.ReasonInvalidSubject, "from %s: %s", b.fabric.names[o], msg)
				break
			}
		}
	}
	if rep.refused {
		return l
	}
	for i, s := range spec.Subjects {
		for _, o := range spec.Subjects[:i] {
			clash := overlaps(s, o) && (l.renames[s] != nil || l.renames[o] != nil || !covers(s, o) && !covers(o, s))
			if clash {
				rep.refuse(index("spec.subjects", i), v1alpha1.ReasonInvalidSubject,
					"%s overlaps with %s, so that a message would arrive twice: make them disjoint, or one cover the other without a rename", s, o)
			}
		}
	}
	l.subjects = minimal(spec.Subjects)
	return l
}

// local is the i-th subject as it arrives from an origin, and whether that is
// another.
func (l *live) local(i int, origin string) (string, bool) {
	if r := l.renames[l.subjects[i]]; r != nil {
		return r.local(origin), true
	}
	return l.subjects[i], false
}

func (l *live) lower(b *bridge, w *lowering) {
	f := b.fabric
	requests := b.object.Spec.Type == v1alpha1.BridgeRequests
	shared := f.sharesReplies(w.account)
	from, to := f.heads(b.from), f.heads(b.to)
	b.eachRoute(func(o, d int32, r route) {
		w.walk(r)
		switch leads, led := f.leads(from, o), f.leads(to, d); {
		case !leads && !led:
			return
		case !leads:
			w.only = o
		case !led:
			w.only = d
		default:
			w.only = everyone
		}
		w.forward(r, l.subjects, func(i int) (string, bool) { return l.local(i, f.names[o]) })
		if !requests {
			return
		}
		inbox := "_INBOX.>"
		if !shared {
			inbox = f.inboxes(o)
		}
		w.reply(r, inbox)
	})
}
