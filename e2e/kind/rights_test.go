//go:build e2e

package kind

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/e2e/kind/lab"
)

// unused are rights that no case uses, with what they are for.
var unused = map[string]map[string]string{
	"sealane-hub": {
		"list messagingtopologies.messaging.sealane.dev":       streaming,
		"list topologyrevisions.messaging.sealane.dev":         streaming,
		"list streams.messaging.sealane.dev":                   streaming,
		"list bridges.messaging.sealane.dev":                   streaming,
		"list jointokens.messaging.sealane.dev":                streaming,
		"create topologyrevisions.messaging.sealane.dev":       rollouts,
		"delete topologyrevisions.messaging.sealane.dev":       rollouts,
		"patch topologyrevisions.messaging.sealane.dev/status": rollouts,
		"delete memberclusters.messaging.sealane.dev":          "an enrolment that fails when the member was made already",
	},
	"sealane-agent": {
		"delete services sealane":              "broker.linkService.enabled becomes false",
		"patch persistentvolumeclaims sealane": "broker.volume.size grows",
	},
}

const (
	streaming = "API servers that send lists as lists; newer ones send them as part of a watch"
	rollouts  = "topologies with a rollout"
)

// rights holds what hub and agents asked of their API servers, in all cases,
// against what their charts let them do: nothing was refused, and every right was
// used or has its reason.
func rights(t *testing.T, f *federation, _ plan) {
	for _, c := range []struct {
		account string
		// clusters: the first has the release still.
		clusters []*lab.Cluster
	}{
		{"sealane-hub", []*lab.Cluster{hub}},
		{"sealane-agent", []*lab.Cluster{berlin, tokyo}},
	} {
		all := grants(t, clientOf(t, c.clusters[0]), c.account)
		used := map[right]bool{}
		wrong := map[string]int{}
		for _, where := range c.clusters {
			events := audited(t, where, c.account)
			for _, e := range events {
				for _, r := range e.rights() {
					i := slices.IndexFunc(all, func(g grant) bool { return g.allows(r, e.ObjectRef.Name) })
					switch {
					case e.Annotations["authorization.k8s.io/decision"] != "allow":
						if f.whole(e.RequestReceivedTimestamp) {
							wrong[fmt.Sprintf("%s in %s may not %s %s", c.account, where.Name, r, e.ObjectRef.Name)]++
						}
					case i >= 0:
						used[all[i].right] = true
					case f.whole(e.RequestReceivedTimestamp):
						wrong[fmt.Sprintf("%s in %s may %s %s, by no rule of its chart", c.account, where.Name, r, e.ObjectRef.Name)]++
					}
				}
			}
			t.Logf("%s in %s: %d requests", c.account, where.Name, len(events))
		}
		for what, times := range wrong {
			t.Errorf("%s: %d times", what, times)
		}
		checked := map[right]bool{}
		for _, g := range all {
			// Some depend on what the API server is up to: they may be used as well.
			if !checked[g.right] && !used[g.right] && unused[c.account][g.String()] == "" {
				t.Errorf("%s may %s, and no case used that: take it out of the chart, or say here what it is for", c.account, g.right)
			}
			checked[g.right] = true
		}
		t.Logf("%s has %d rights, of which %d were used", c.account, len(checked), len(used))
	}
}

// whole says whether this commit's release was installed at a time: before, and
// while it goes, pods may do what their roles do not say.
func (f *federation) whole(at time.Time) bool {
	return at.After(f.settled) && !slices.ContainsFunc(f.apart, func(s span) bool { return at.After(s.from) && at.Before(s.to) })
}

// right is one cell of a rule.
type right struct{ verb, what, namespace string }

func (r right) String() string { return strings.TrimSpace(r.verb + " " + r.what + " " + r.namespace) }

// what names a resource, as kubectl does.
func what(resource, group, subresource string) string {
	if group != "" {
		resource += "." + group
	}
	if subresource != "" {
		resource += "/" + subresource
	}
	return resource
}

// grant is a right for certain names; none: for all.
type grant struct {
	right
	names []string
}

// allows says whether a request is within a grant. A Role's right ends with its
// namespace.
func (g grant) allows(r right, name string) bool {
	return g.verb == r.verb && g.what == r.what && (g.namespace == "" || g.namespace == r.namespace) &&
		(len(g.names) == 0 || slices.Contains(g.names, name))
}

// grants are the rights of a service account, those for names first.
func grants(t testing.TB, kube client.Client, account string) []grant {
	t.Helper()
	var all []grant
	add := func(namespace string, rules []rbacv1.PolicyRule) {
		for _, rule := range rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					resource, sub, _ := strings.Cut(resource, "/")
					for _, verb := range rule.Verbs {
						all = append(all, grant{right{verb, what(resource, group, sub), namespace}, rule.ResourceNames})
					}
				}
			}
		}
	}
	ours := func(subjects []rbacv1.Subject) bool {
		return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
			return s.Kind == rbacv1.ServiceAccountKind && s.Namespace == system && s.Name == account
		})
	}
	var bindings rbacv1.RoleBindingList
	var clusterBindings rbacv1.ClusterRoleBindingList
	for _, list := range []client.ObjectList{&bindings, &clusterBindings} {
		if err := kube.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range bindings.Items {
		var role rbacv1.Role
		if !ours(b.Subjects) {
			continue
		}
		if err := kube.Get(t.Context(), client.ObjectKey{Namespace: b.Namespace, Name: b.RoleRef.Name}, &role); err != nil {
			t.Fatal(err)
		}
		add(b.Namespace, role.Rules)
	}
	for _, b := range clusterBindings.Items {
		var role rbacv1.ClusterRole
		if !ours(b.Subjects) {
			continue
		}
		if err := kube.Get(t.Context(), client.ObjectKey{Name: b.RoleRef.Name}, &role); err != nil {
			t.Fatal(err)
		}
		add("", role.Rules)
	}
	slices.SortStableFunc(all, func(a, b grant) int { return cmp.Compare(len(b.names), len(a.names)) })
	return all
}

// auditEvent is what is read of a request that the API server wrote down.
type auditEvent struct {
	Verb string
	User struct{ Username string }

	RequestReceivedTimestamp time.Time
	ObjectRef                *struct{ Resource, Namespace, Name, APIGroup, Subresource string }
	ResponseStatus           struct{ Code int }
	Annotations              map[string]string
}

// rights are those that a request took. To apply an object that does not exist
// takes the right to create it.
func (e auditEvent) rights() []right {
	if e.ObjectRef == nil || e.ObjectRef.Resource == "" {
		return nil
	}
	r := right{e.Verb, what(e.ObjectRef.Resource, e.ObjectRef.APIGroup, e.ObjectRef.Subresource), e.ObjectRef.Namespace}
	if e.Verb == "patch" && e.ResponseStatus.Code == http.StatusCreated {
		return []right{r, {"create", r.what, r.namespace}}
	}
	return []right{r}
}

// audited are all requests of a service account.
func audited(t testing.TB, c *lab.Cluster, account string) []auditEvent {
	t.Helper()
	log, err := c.AuditLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []auditEvent
	lines := bufio.NewScanner(strings.NewReader(log))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		if e.User.Username == "system:serviceaccount:"+system+":"+account {
			all = append(all, e)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatalf("%s in %s asked nothing: is the audit log on?", account, c.Name)
	}
	return all
}
