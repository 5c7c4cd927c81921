package agent

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// What is managed by an agent says so in its metadata.
const (
	metaManaged = "sealane.dev/managed"
	metaPart    = "sealane.dev/part"
	metaHash    = "sealane.dev/hash"
	// metaRetained marks a stream that was kept when its part was removed: it is
	// managed again if the part comes back.
	metaRetained = "sealane.dev/retained"
)

// maxAckPending is how many messages a durable bridge has on its way.
const maxAckPending = 4096

// pausedUntil is when a paused outlet would go on by itself: not while any of
// us is around.
var pausedUntil = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

func isOurs(meta map[string]string) bool {
	return meta[metaManaged] == "true" || meta[metaRetained] == "true"
}

// marked adds what marks a part's object to its metadata.
func marked(meta map[string]string, p *federationv1.Part) map[string]string {
	m := maps.Clone(meta)
	if m == nil {
		m = map[string]string{}
	}
	m[metaManaged], m[metaPart], m[metaHash] = "true", p.Id, p.Hash
	delete(m, metaRetained)
	return m
}

func unlimited(n int64) int64 {
	if n <= 0 {
		return -1
	}
	return n
}

func retention(r federationv1.StreamSpec_Retention) jetstream.RetentionPolicy {
	switch r {
	case federationv1.StreamSpec_INTEREST:
		return jetstream.InterestPolicy
	case federationv1.StreamSpec_WORK_QUEUE:
		return jetstream.WorkQueuePolicy
	default:
		return jetstream.LimitsPolicy
	}
}

// streamConfig is what a stream's configuration shall be: what the part says,
// and for the rest what base, the configuration that is there, says.
func streamConfig(base jetstream.StreamConfig, p *federationv1.Part) jetstream.StreamConfig {
	s := p.GetStream()
	c := base
	c.Name = s.Name
	c.Subjects = slices.Clone(s.Subjects)
	c.Retention = retention(s.Retention)
	c.Storage = jetstream.FileStorage
	if s.MemoryStorage {
		c.Storage = jetstream.MemoryStorage
	}
	c.MaxBytes = unlimited(s.MaxBytes)
	c.MaxMsgs = unlimited(s.MaxMessages)
	c.MaxMsgsPerSubject = unlimited(s.MaxMessagesPerSubject)
	c.MaxAge = time.Duration(s.MaxAge)
	c.Discard = jetstream.DiscardOld
	if s.DiscardNew {
		c.Discard = jetstream.DiscardNew
	}
	if s.DuplicateWindow > 0 {
		c.Duplicates = time.Duration(s.DuplicateWindow)
	} else if c.MaxAge > 0 && c.Duplicates > c.MaxAge {
		c.Duplicates = c.MaxAge // NATS refuses a longer one
	}
	c.Replicas = max(int(s.Replicas), 1)
	c.SubjectTransform = nil
	if s.Transform != nil {
		c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: s.Transform.From, Destination: s.Transform.To}
	}
	c.Sources = nil
	for _, src := range s.Sources {
		c.Sources = append(c.Sources, streamSource(src))
	}
	c.Subjects = someSubject(c)
	c.Metadata = marked(base.Metadata, p)
	return c
}

// someSubject is the subjects of a stream, or one that nobody uses if nothing
// feeds it: without any, NATS would make the stream's name its subject.
func someSubject(c jetstream.StreamConfig) []string {
	if len(c.Subjects)+len(c.Sources) > 0 {
		return c.Subjects
	}
	return []string{"sealane.unfed." + c.Name}
}

// newStreamConfig is the configuration of a stream that is not there yet.
func newStreamConfig(p *federationv1.Part) jetstream.StreamConfig {
	return streamConfig(jetstream.StreamConfig{
		AllowDirect:  true,
		MaxMsgSize:   -1,
		MaxConsumers: -1,
	}, p)
}

func streamSource(src *federationv1.Source) *jetstream.StreamSource {
	s := &jetstream.StreamSource{Name: src.Stream}
	if src.ApiPrefix != "" {
		s.External = &jetstream.ExternalStream{APIPrefix: viaAgent(src.ApiPrefix)}
	}
	if src.Consumer != "" {
		s.Consumer = &jetstream.StreamConsumerSource{Name: src.Consumer, DeliverSubject: src.DeliverSubject}
	}
	for _, t := range src.Transforms {
		s.SubjectTransforms = append(s.SubjectTransforms, jetstream.SubjectTransformConfig{Source: t.From, Destination: t.To})
	}
	// A filter and transforms exclude each other in NATS, where a transform
	// filters too, and one without a destination only filters.
	if len(src.Filters) == 1 && len(src.Transforms) == 0 {
		s.FilterSubject = src.Filters[0]
		return s
	}
	for _, f := range src.Filters {
		if !slices.ContainsFunc(src.Transforms, func(t *federationv1.Transform) bool { return t.From == f }) {
			s.SubjectTransforms = append(s.SubjectTransforms, jetstream.SubjectTransformConfig{Source: f})
		}
	}
	return s
}

// sameStream compares what is managed of two configurations of a stream.
func sameStream(a, b jetstream.StreamConfig) bool {
	return sameSet(a.Subjects, b.Subjects) &&
		a.Retention == b.Retention && a.Storage == b.Storage &&
		unlimited(a.MaxBytes) == unlimited(b.MaxBytes) &&
		unlimited(a.MaxMsgs) == unlimited(b.MaxMsgs) &&
		unlimited(a.MaxMsgsPerSubject) == unlimited(b.MaxMsgsPerSubject) &&
		a.MaxAge == b.MaxAge && a.Discard == b.Discard && a.Duplicates == b.Duplicates &&
		max(a.Replicas, 1) == max(b.Replicas, 1) &&
		sameTransform(a.SubjectTransform, b.SubjectTransform) &&
		sameSources(a.Sources, b.Sources) &&
		sameMarks(a.Metadata, b.Metadata)
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func sameMarks(a, b map[string]string) bool {
	for _, k := range []string{metaManaged, metaPart, metaHash, metaRetained} {
		if a[k] != b[k] {
			return false
		}
	}
	return true
}

func sameTransform(a, b *jetstream.SubjectTransformConfig) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// sameSources compares sources whatever their order.
func sameSources(a, b []*jetstream.StreamSource) bool {
	order := func(x, y *jetstream.StreamSource) int { return cmp.Compare(sourceKey(x), sourceKey(y)) }
	a, b = slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order)
	return slices.EqualFunc(a, b, func(x, y *jetstream.StreamSource) bool {
		return sourceKey(x) == sourceKey(y) && slices.Equal(x.SubjectTransforms, y.SubjectTransforms)
	})
}

func sourceKey(s *jetstream.StreamSource) string {
	key := s.Name + " " + s.FilterSubject
	if s.External != nil {
		key += " " + s.External.APIPrefix
	}
	if s.Consumer != nil {
		key += " " + s.Consumer.Name + " " + s.Consumer.DeliverSubject
	}
	for _, t := range s.SubjectTransforms {
		key += " " + t.Source + ">" + t.Destination
	}
	return key
}

// outletConfig is what an outlet's consumer shall be: the part over base.
func outletConfig(base jetstream.ConsumerConfig, p *federationv1.Part) jetstream.ConsumerConfig {
	o := p.GetOutlet()
	c := base
	c.Name, c.Durable = o.Consumer, o.Consumer
	c.DeliverSubject = o.DeliverSubject
	c.DeliverPolicy = jetstream.DeliverAllPolicy
	c.AckPolicy = jetstream.AckFlowControlPolicy
	c.FlowControl = true
	c.IdleHeartbeat = time.Second
	c.MaxAckPending = maxAckPending
	c.FilterSubject, c.FilterSubjects = "", nil
	if len(o.Filters) == 1 {
		c.FilterSubject = o.Filters[0]
	} else {
		c.FilterSubjects = slices.Clone(o.Filters)
	}
	c.RateLimit = uint64(o.RateLimit) * 8 // NATS counts bits
	c.PauseUntil = nil
	if o.Paused {
		c.PauseUntil = &pausedUntil
	}
	c.Metadata = marked(base.Metadata, p)
	return c
}

// sameOutlet compares what is managed of two configurations of a consumer.
func sameOutlet(a, b jetstream.ConsumerConfig) bool {
	return a.DeliverSubject == b.DeliverSubject &&
		sameFixed(a, b) &&
		a.MaxAckPending == b.MaxAckPending &&
		sameSet(filters(a), filters(b)) &&
		a.RateLimit == b.RateLimit &&
		samePause(a.PauseUntil, b.PauseUntil) &&
		sameMarks(a.Metadata, b.Metadata)
}

// sameFixed compares what NATS cannot change of a consumer.
func sameFixed(a, b jetstream.ConsumerConfig) bool {
	return a.DeliverPolicy == b.DeliverPolicy && a.AckPolicy == b.AckPolicy &&
		a.FlowControl == b.FlowControl && a.IdleHeartbeat == b.IdleHeartbeat
}

func filters(c jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return []string{c.FilterSubject}
	}
	return c.FilterSubjects
}

func samePause(a, b *time.Time) bool {
	if a == nil || a.IsZero() {
		return b == nil || b.IsZero()
	}
	return b != nil && a.Equal(*b)
}
