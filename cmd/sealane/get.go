package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

// view makes the listing of one kind from a snapshot.
type view struct {
	use        string
	aliases    []string
	short      string
	namespaced bool
	list       func(s *hubapi.Snapshot, now time.Time) listing
}

var views = []view{
	{"topologies", []string{"topology", "messagingtopologies", "messagingtopology", "mtop"}, "List the topologies", false, topologies},
	{"members", []string{"member", "memberclusters", "membercluster"}, "List the members, whether they are connected and have applied their state", false, members},
	{"links", []string{"link"}, "List the links between members as both ends see them; MEMBER shows its links", false, links},
	{"streams", []string{"stream", "mstream"}, "List the streams", true, streams},
	{"bridges", []string{"bridge", "mbridge"}, "List the bridges: what flows from where to where, and the lag", true, bridges},
}

func getCommand(env *environment) *cobra.Command {
	c := &cobra.Command{
		Use:   "get",
		Short: "List topologies, members, links, streams or bridges",
		Args:  arguments(cobra.NoArgs),
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, v := range views {
		c.AddCommand(viewCommand(env, v))
	}
	return c
}

func viewCommand(env *environment, v view) *cobra.Command {
	output := oneOf("table", "table", "json", "yaml", "name")
	var namespace string
	var everywhere bool
	argument := "NAME"
	if v.use == "links" {
		argument = "MEMBER"
	}
	c := &cobra.Command{
		Use:     v.use + " [" + argument + "...]",
		Aliases: v.aliases,
		Short:   v.short,
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := env.hub()
			if err != nil {
				return err
			}
			s, err := hub.Snapshot(c.Context())
			if err != nil {
				return err
			}
			l := v.list(s, env.now())
			if v.use == "links" {
				if err := knownMembers(s, args); err != nil {
					return err
				}
				l.items = slices.DeleteFunc(l.items, func(i item) bool { return len(args) > 0 && !touches(i.object.(hubapi.Link), args) })
				args = nil
			}
			return l.show(env, output.value, namespace, args)
		},
		ValidArgsFunction: env.complete(func(ctx context.Context, hub *hubapi.Hub) ([]string, error) {
			s, err := hub.Snapshot(ctx)
			if err != nil {
				return nil, err
			}
			what := v.list
			if v.use == "links" {
				what = members
			}
			var names []string
			for _, i := range what(s, env.now()).items {
				if namespace == "" || i.namespace == namespace {
					names = append(names, i.name)
				}
			}
			return names, nil
		}, -1),
	}
	output.add(c, "output", "o", "format")
	if v.namespaced {
		c.Flags().StringVarP(&namespace, "namespace", "n", "", "only this namespace (default: all)")
		c.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "all namespaces (the default)")
		c.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	}
	return c
}

func knownMembers(s *hubapi.Snapshot, names []string) error {
	for _, n := range names {
		if !slices.ContainsFunc(s.Members, func(m v1alpha1.MemberCluster) bool { return m.Name == n }) {
			return fmt.Errorf("no member %q; %s", n, existing(members(s, time.Time{}).items))
		}
	}
	return nil
}

func touches(l hubapi.Link, members []string) bool {
	return slices.Contains(members, l.Dialer) || slices.Contains(members, l.Acceptor)
}

func topologies(s *hubapi.Snapshot, now time.Time) listing {
	l := listing{kind: "messagingtopology", header: []string{"NAME", "ACCEPTED", "MEMBERS", "LINKS", "READY", "REASON", "AGE"}}
	for i := range s.Topologies {
		o := &s.Topologies[i]
		l.items = append(l.items, item{"", o.Name, []cell{
			text(o.Name), verdict(status(o.Status.Conditions, v1alpha1.ConditionAccepted)), text(o.Status.Members), text(o.Status.Links),
			verdict(status(o.Status.Conditions, v1alpha1.ConditionReady)), text(reason(o.Status.Conditions)), text(age(now, o.CreationTimestamp.Time)),
		}, shown(o, "MessagingTopology")})
	}
	return l
}

func members(s *hubapi.Snapshot, now time.Time) listing {
	l := listing{kind: "membercluster", header: []string{"NAME", "CONNECTED", "APPLIED", "LINKS", "READY", "REASON", "AGENT", "AGE"}}
	for i := range s.Members {
		o := &s.Members[i]
		agent := ""
		if o.Status.Agent != nil {
			agent = o.Status.Agent.Version
		}
		l.items = append(l.items, item{"", o.Name, []cell{
			text(o.Name), verdict(status(o.Status.Conditions, v1alpha1.ConditionConnected)), text(o.Status.Parts), text(linksUp(o)),
			verdict(status(o.Status.Conditions, v1alpha1.ConditionReady)), text(reason(o.Status.Conditions)), text(agent), text(age(now, o.CreationTimestamp.Time)),
		}, shown(o, "MemberCluster")})
	}
	return l
}

// linksUp counts the links of a member that are up, of those that should be.
func linksUp(m *v1alpha1.MemberCluster) string {
	up, all := 0, 0
	for _, l := range m.Status.Links {
		switch l.State {
		case v1alpha1.LinkStandby:
			continue
		case v1alpha1.LinkUp:
			up++
		}
		all++
	}
	return fmt.Sprintf("%d/%d", up, all)
}

func links(s *hubapi.Snapshot, now time.Time) listing {
	l := listing{kind: "link", header: []string{"DIALER", "ACCEPTOR", "STATE", "SINCE", "RTT", "MESSAGE"}}
	for _, k := range s.Links() {
		l.items = append(l.items, item{"", k.Name(), []cell{
			text(k.Dialer), text(k.Acceptor), verdict(string(k.State)), text(age(now, k.Since)), text(roundTrip(k.RTTMicros)), text(k.Message),
		}, k})
	}
	return l
}

func streams(s *hubapi.Snapshot, now time.Time) listing {
	l := listing{kind: "stream", header: []string{"NAMESPACE", "NAME", "ACCOUNT", "STREAM", "ON", "APPLIED", "READY", "REASON", "AGE"}}
	for i := range s.Streams {
		o := &s.Streams[i]
		name := o.Spec.Name
		if name == "" {
			name = o.Name
		}
		l.items = append(l.items, item{o.Namespace, o.Name, []cell{
			text(o.Namespace), text(o.Name), text(o.Spec.Account), text(name), text(placement(o.Spec.Placement)), text(o.Status.Members),
			verdict(status(o.Status.Conditions, v1alpha1.ConditionReady)), text(reason(o.Status.Conditions)), text(age(now, o.CreationTimestamp.Time)),
		}, shown(o, "Stream")})
	}
	return l
}

func bridges(s *hubapi.Snapshot, now time.Time) listing {
	l := listing{kind: "bridge", header: []string{"NAMESPACE", "NAME", "TYPE", "ACCOUNT", "FROM", "TO", "APPLIED", "LAG", "READY", "REASON", "AGE"}}
	for i := range s.Bridges {
		o := &s.Bridges[i]
		lag := ""
		if o.Spec.Stream != nil {
			lag = fmt.Sprint(o.Status.Lag)
		}
		l.items = append(l.items, item{o.Namespace, o.Name, []cell{
			text(o.Namespace), text(o.Name), text(string(o.Spec.Type)), text(o.Spec.Account), text(placement(o.Spec.From)), text(placement(o.Spec.To)),
			text(o.Status.Members), text(lag), verdict(status(o.Status.Conditions, v1alpha1.ConditionReady)), text(reason(o.Status.Conditions)),
			text(age(now, o.CreationTimestamp.Time)),
		}, shown(o, "Bridge")})
	}
	return l
}

func status(conditions []metav1.Condition, kind string) string {
	if c := meta.FindStatusCondition(conditions, kind); c != nil {
		return string(c.Status)
	}
	return string(metav1.ConditionUnknown)
}

// reason is that of the first condition which does not hold, or which holds for
// a reason worth knowing.
func reason(conditions []metav1.Condition) string {
	for _, t := range []string{v1alpha1.ConditionConnected, v1alpha1.ConditionAccepted, v1alpha1.ConditionReady, v1alpha1.ConditionProgrammed} {
		if c := meta.FindStatusCondition(conditions, t); c != nil && (c.Status != metav1.ConditionTrue || c.Reason != t) {
			return c.Reason
		}
	}
	return ""
}

func placement(p v1alpha1.Placement) string {
	switch {
	case p.Group != "":
		return "group " + p.Group
	case len(p.Clusters) > 3:
		return fmt.Sprintf("%s and %d more", strings.Join(p.Clusters[:2], ","), len(p.Clusters)-2)
	case len(p.Clusters) > 0:
		return strings.Join(p.Clusters, ",")
	case p.Selector != nil && len(p.Selector.MatchLabels)+len(p.Selector.MatchExpressions) == 0:
		return "all"
	case p.Selector != nil:
		return metav1.FormatLabelSelector(p.Selector)
	}
	return ""
}
