package agent

import (
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// maxReport bounds one message of a report, and the parts in a Hello: a hub takes
// 4 MiB. One entry more than fits is far less than the difference.
const maxReport = 1 << 20

// split gives back a report as messages of at most about limit bytes, of which all
// but the last say that more follows. Nearly always it is one, the report itself.
func split(r *federationv1.Report, limit int) []*federationv1.Report {
	if proto.Size(r) <= limit {
		return []*federationv1.Report{r}
	}
	last := &federationv1.Report{HeldHash: r.HeldHash, Refusal: r.Refusal, RefusalCode: r.RefusalCode, Facts: r.Facts}
	out := []*federationv1.Report{last}
	size := proto.Size(last)
	// room is the message that takes an entry.
	room := func(entry proto.Message) *federationv1.Report {
		const overhead = 8 // tag and length
		n := proto.Size(entry) + overhead
		if size+n > limit {
			last.More = true
			last = &federationv1.Report{HeldHash: r.HeldHash}
			out, size = append(out, last), proto.Size(last)
		}
		size += n
		return last
	}
	for _, x := range r.Parts {
		to := room(x)
		to.Parts = append(to.Parts, x)
	}
	for _, x := range r.Grants {
		to := room(x)
		to.Grants = append(to.Grants, x)
	}
	for _, x := range r.Links {
		to := room(x)
		to.Links = append(to.Links, x)
	}
	for _, x := range r.Flows {
		to := room(x)
		to.Flows = append(to.Flows, x)
	}
	return out
}

// brief are the statuses as they stand in a Hello: all of them count from the
// first moment, and where there are very many the messages follow in the report.
func brief(parts []*federationv1.PartStatus) []*federationv1.PartStatus {
	if proto.Size(&federationv1.Hello{Unapplied: parts}) <= maxReport {
		return parts
	}
	out := make([]*federationv1.PartStatus, len(parts))
	for i, p := range parts {
		out[i] = &federationv1.PartStatus{Id: p.Id, Hash: p.Hash, State: p.State, Code: p.Code, Retrying: p.Retrying}
	}
	return out
}
