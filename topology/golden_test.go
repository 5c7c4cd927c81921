package topology

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata/*.txtar")

// TestScenarios compiles the resources of each testdata/*.txtar and compares the
// plan. A file has these sections:
//
//	members      a member a line: NAME [ADDRESS|-|?] [old] [embedded] [max:N]
//	             [LABEL=VALUE ...]; "-" only dials, "?" has never connected, "old"
//	             knows no roles of links. All have each other's grants.
//	*.yaml       resources; more than one, divided by "---"; the order in which
//	             they stand is their age
//	problems, links, MEMBER   what is expected, rewritten by -update
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			comment, sections := parseArchive(string(data))
			in := readInput(t, sections)
			p := Compile(in)
			want := map[string]string{}
			var got []section
			for _, s := range sections {
				if s.name == "members" || strings.HasSuffix(s.name, ".yaml") {
					got = append(got, s)
				} else {
					want[s.name] = s.body
				}
			}
			described := describe(p)
			if *update {
				if err := os.WriteFile(file, []byte(formatArchive(comment, append(got, described...))), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, s := range described {
				if diff := cmp.Diff(want[s.name], s.body); diff != "" {
					t.Errorf("%s differs (-want +got):\n%s", s.name, diff)
				}
				delete(want, s.name)
			}
			for name := range want {
				t.Errorf("expected section %s is not there", name)
			}
		})
	}
}

// section is a file of a txtar archive.
type section struct{ name, body string }

func parseArchive(s string) (comment string, out []section) {
	sc := bufio.NewScanner(strings.NewReader(s))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if name, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(name, " --") {
			out = append(out, section{name: strings.TrimSuffix(name, " --")})
			continue
		}
		if len(out) == 0 {
			comment += line + "\n"
		} else {
			out[len(out)-1].body += line + "\n"
		}
	}
	return comment, out
}

func formatArchive(comment string, sections []section) string {
	var b strings.Builder
	b.WriteString(comment)
	for _, s := range sections {
		fmt.Fprintf(&b, "-- %s --\n%s", s.name, s.body)
	}
	return b.String()
}

func readInput(t *testing.T, sections []section) Input {
	t.Helper()
	var in Input
	age := int64(1000)
	stamp := func(m *metav1.ObjectMeta) {
		age++
		m.CreationTimestamp, m.UID, m.Generation = metav1.Unix(age, 0), types.UID(fmt.Sprint("uid-", age)), 1
	}
	for _, s := range sections {
		switch {
		case s.name == "members":
			in.Members = readMembers(s.body, stamp)
		case strings.HasSuffix(s.name, ".yaml"):
			for _, doc := range bytes.Split([]byte(s.body), []byte("\n---\n")) {
				readObject(t, doc, &in, stamp)
			}
		}
	}
	return in
}

func readMembers(body string, stamp func(*metav1.ObjectMeta)) []*v1alpha1.MemberCluster {
	var out []*v1alpha1.MemberCluster
	for _, line := range strings.Split(strings.TrimSpace(body), "\n") {
		f := strings.Fields(line)
		m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: f[0], Labels: map[string]string{}}}
		stamp(&m.ObjectMeta)
		address, agent := f[0]+":7422", &v1alpha1.AgentInfo{Version: "1", LinkRoles: true, LinkGroups: true}
		for _, word := range f[1:] {
			k, v, labeled := strings.Cut(word, "=")
			switch {
			case labeled:
				m.Labels[k] = v
			case word == "old":
				agent.LinkRoles, agent.LinkGroups = false, false
			case word == "embedded":
				agent.Runtime = word
			case strings.HasPrefix(word, "max:"):
				fmt.Sscanf(word, "max:%d", &agent.MaxReplicas)
			default:
				address = word
			}
		}
		if address != "?" {
			m.Status.LinkKey, m.Status.Agent = "U-"+f[0], agent
			if address != "-" {
				m.Status.Endpoints = []string{address}
			}
		}
		out = append(out, m)
	}
	for _, m := range out {
		for _, peer := range out {
			if peer != m && m.Status.LinkKey != "" {
				m.Status.Grants = append(m.Status.Grants, v1alpha1.Grant{Peer: peer.Name, Key: m.Status.LinkKey, Out: "jwt-out", In: "jwt-in"})
			}
		}
	}
	return out
}

func readObject(t *testing.T, doc []byte, in *Input, stamp func(*metav1.ObjectMeta)) {
	t.Helper()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		t.Fatalf("%v in:\n%s", err, doc)
	}
	read := func(o metav1.Object, m *metav1.ObjectMeta) {
		if err := yaml.UnmarshalStrict(doc, o); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		stamp(m)
	}
	switch Kind(kind.Kind) {
	case KindTopology:
		o := &v1alpha1.MessagingTopology{}
		read(o, &o.ObjectMeta)
		in.Topologies = append(in.Topologies, o)
	case KindStream:
		o := &v1alpha1.Stream{}
		read(o, &o.ObjectMeta)
		in.Streams = append(in.Streams, o)
	case KindBridge:
		o := &v1alpha1.Bridge{}
		read(o, &o.ObjectMeta)
		in.Bridges = append(in.Bridges, o)
	default:
		t.Fatalf("kind %q in:\n%s", kind.Kind, doc)
	}
}

// describe writes a plan for people.
func describe(p *Plan) []section {
	var problems, links strings.Builder
	for _, x := range p.Problems {
		word := "refused"
		switch {
		case x.Note:
			word = "note"
		case x.Waiting:
			word = "waiting"
		}
		fmt.Fprintf(&problems, "%s %s %s %s %s: %s\n", x.Object.Kind, x.Object.path(), word, x.Reason, x.Field, x.Message)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Frozen)) {
		fmt.Fprintf(&problems, "frozen %s: %s\n", name, p.Frozen[name])
	}
	for _, l := range p.Links {
		fmt.Fprintf(&links, "%s: %s dials %s", l.Topology, l.Dialer, l.Acceptor)
		if l.FailoverGroup != "" {
			fmt.Fprintf(&links, " as one of %s", l.FailoverGroup)
		}
		if l.Split {
			links.WriteString(" split")
		}
		if !l.Granted {
			links.WriteString(" not granted")
		}
		links.WriteString("\n")
	}
	out := []section{{"problems", problems.String()}, {"links", links.String()}}
	for _, name := range slices.Sorted(maps.Keys(p.Members)) {
		var b strings.Builder
		for _, part := range p.Members[name].Parts {
			describePart(&b, part)
		}
		out = append(out, section{name, b.String()})
	}
	return out
}

func describePart(b *strings.Builder, p *PlannedPart) {
	b.WriteString(p.Part.Id)
	switch s := p.Part.Spec.(type) {
	case *federationv1.Part_Broker:
		fmt.Fprintf(b, " storage %d memory %d payload %d connections %d", s.Broker.MaxStorage, s.Broker.MaxMemory, s.Broker.MaxPayload, s.Broker.MaxConnections)
		if s.Broker.SyncAlways {
			b.WriteString(" sync always")
		}
		if n := s.Broker.Replicas; n > 0 {
			fmt.Fprintf(b, " servers %d", n)
		}
		if a := s.Broker.Autoscaling; a != nil {
			fmt.Fprintf(b, " to %d after %ds and %ds", a.Max, a.UpSeconds, a.DownSeconds)
		}
	case *federationv1.Part_Account:
		if l := s.Account.Limits; l != nil {
			fmt.Fprintf(b, " limits %d %d %d %d %d %d", l.Connections, l.Subscriptions, l.Storage, l.Memory, l.Streams, l.Consumers)
		}
		if n := s.Account.Namespaces; len(n) > 0 && n[0] != "*" {
			fmt.Fprintf(b, " namespaces %s", strings.Join(n, " "))
		}
		for _, i := range s.Account.Imports {
			word := "import"
			if i.Service {
				word = "service"
			}
			fmt.Fprintf(b, "\n  %s %s %s", word, i.Account, i.Subject)
			if i.To != "" {
				fmt.Fprintf(b, " -> %s", i.To)
			}
		}
	case *federationv1.Part_Link:
		fmt.Fprintf(b, " %s %s%s", s.Link.Role, s.Link.PeerKey, strings.Join(s.Link.Endpoints, ","))
		if s.Link.Role == federationv1.LinkSpec_DIAL && !s.Link.Spoke {
			b.WriteString(" split")
		}
		if g := s.Link.Group; g != nil {
			fmt.Fprintf(b, " in %s as %s", g.Name, strings.Join(g.Origins, " "))
		}
		if s.Link.FailoverGroup != "" {
			fmt.Fprintf(b, " %s/%d", s.Link.FailoverGroup, s.Link.Priority)
		}
		if g := s.Link.Grant; g != nil {
			fmt.Fprintf(b, " grant %s %s", g.Peer, g.Key)
		}
	case *federationv1.Part_Stream:
		describeStream(b, s.Stream)
	case *federationv1.Part_Outlet:
		o := s.Outlet
		fmt.Fprintf(b, " of %s delivers %s", o.Bridge, o.DeliverSubject)
		if len(o.Filters) > 0 {
			fmt.Fprintf(b, " filters %s", strings.Join(o.Filters, " "))
		}
		if o.RateLimit > 0 {
			fmt.Fprintf(b, " rate %d", o.RateLimit)
		}
		if o.Paused {
			b.WriteString(" paused")
		}
	}
	for _, a := range p.After {
		fmt.Fprintf(b, "\n  after %s of %s", a.ID, a.Cluster)
	}
	b.WriteString("\n")
}

func describeStream(b *strings.Builder, s *federationv1.StreamSpec) {
	fmt.Fprintf(b, " %s", s.Retention)
	for _, x := range []struct {
		name  string
		value int64
	}{
		{"bytes", s.MaxBytes}, {"messages", s.MaxMessages}, {"per-subject", s.MaxMessagesPerSubject}, {"age", s.MaxAge}, {"duplicates", s.DuplicateWindow},
	} {
		if x.value != 0 {
			fmt.Fprintf(b, " %s %d", x.name, x.value)
		}
	}
	if s.Replicas > 0 {
		fmt.Fprintf(b, " copies %d", s.Replicas)
	}
	if s.MemoryStorage {
		b.WriteString(" memory")
	}
	if s.DiscardNew {
		b.WriteString(" discard-new")
	}
	if s.Retain {
		b.WriteString(" retain")
	}
	if len(s.Subjects) > 0 {
		fmt.Fprintf(b, " binds %s", strings.Join(s.Subjects, " "))
	}
	if s.Transform != nil {
		fmt.Fprintf(b, "\n  stores %s as %s", s.Transform.From, s.Transform.To)
	}
	for _, src := range s.Sources {
		fmt.Fprintf(b, "\n  from %s of %q for %s", src.Stream, src.Origin, src.Bridge)
		if src.Consumer != "" {
			fmt.Fprintf(b, " by %s on %s via %s", src.Consumer, src.DeliverSubject, src.ApiPrefix)
		}
		if len(src.Filters) > 0 {
			fmt.Fprintf(b, " filters %s", strings.Join(src.Filters, " "))
		}
		for _, x := range src.Transforms {
			fmt.Fprintf(b, "\n    %s as %s", x.From, x.To)
		}
	}
}
