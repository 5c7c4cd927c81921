//go:build e2e

package kind

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/kind/lab"
)

// hubRemoved uninstalls the hub and installs it again. Resources and authority
// stay; members do not notice.
func hubRemoved(t *testing.T, f *federation, p plan) {
	end := f.load(t)
	f.uninstall(t, hub, "sealane-hub", "")
	f.checkEvents(t)
	var authority corev1.Secret
	if err := f.kube.Get(t.Context(), client.ObjectKey{Namespace: system, Name: "sealane-hub-authority"}, &authority); err != nil {
		t.Fatal(err)
	}
	f.installHub(t)
	// What was ready before still says so: only a change shows that this hub rules.
	update(t, f, p.news, func(b *v1alpha1.Bridge) { b.Spec.Subjects = append(b.Spec.Subjects, "weather.>") })
	p.ready(t, f)
	f.checkCopies(t, "orders", end(), everywhere...)
	f.checkEvents(t)
}

// drained removes tokyo in order, while jobs wait there for a link that is down:
// all of them arrive before it goes. Its release is uninstalled, and after its
// volumes were deleted it joins as a new member.
func drained(t *testing.T, f *federation, p plan) {
	origin := "tokyo" + random()
	w := write(t, f.connect(t, "tokyo"), origin, "jobs.x", 0)
	if err := tokyo.Cut(t.Context(), berlin.IP); err != nil {
		t.Fatal(err)
	}
	f.wait(t, p.move, v1alpha1.ConditionReady, metav1.ConditionFalse)
	m := memberCluster("tokyo")
	if err := f.kube.Delete(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "tokyo waits for what it has to deliver", func() error {
		if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionLeaving); c == nil || c.Reason != v1alpha1.ReasonDraining {
			return fmt.Errorf("conditions are %+v", m.Status.Conditions)
		}
		return nil
	})
	stored := w.end(t)
	if err := tokyo.Heal(t.Context(), berlin.IP); err != nil {
		t.Fatal(err)
	}
	f.gone(t, "tokyo")
	f.checkTaken(t, origin, stored)

	f.uninstall(t, tokyo, "sealane-agent", "")
	claims := strings.Fields(kubectl(t, tokyo, "-n", system, "get", "pvc", "-o", "jsonpath={.items[*].metadata.name}"))
	for _, want := range []string{"data-sealane-agent-0", "data-sealane-broker-0"} {
		if !slices.Contains(claims, want) {
			t.Errorf("%s is not kept: there are %v", want, claims)
		}
	}
	for _, name := range []string{"sealane-agent", "sealane-broker"} {
		kubectl(t, tokyo, "-n", system, "delete", "pvc", "--selector", "app.kubernetes.io/name="+name)
	}
	kubectl(t, tokyo, "delete", "secret", "--all-namespaces", "--selector", "app.kubernetes.io/managed-by=sealane-agent")

	start := time.Now()
	f.installAgent(t, tokyo, "--set", "token="+f.token(t, "tokyo"), "--set", "ownBroker=false",
		"--set", "broker.podDisruptionBudget.enabled=false")
	// The first event also shows that its servers, accounts and links are there.
	arrived := listen(t, f.connect(t, "tokyo"), "tokyo", "news.joined")
	sender := f.connect(t, "berlin")
	eventually(t, 5*time.Minute, "tokyo hears of the others", func() error {
		if err := sender.Publish("news.joined", []byte("first")); err != nil {
			return err
		}
		if !arrived.saw("first") {
			return errors.New("not yet")
		}
		return nil
	})
	t.Logf("tokyo got its first message %v after helm install", time.Since(start).Round(100*time.Millisecond))
	p.ready(t, f)
	f.checkCopies(t, "orders", counts{"berlin": f.written}, everywhere...)
	f.checkMoves(t, func() {})
	f.checkEvents(t)
}

// forgotten removes tokyo while nobody reaches it. The others go on without it; its
// release is uninstalled and leaves the broker (ownBroker=false), which serves
// what it has.
func forgotten(t *testing.T, f *federation, _ plan) {
	if err := tokyo.Cut(t.Context(), hub.IP, berlin.IP); err != nil {
		t.Fatal(err)
	}
	m := memberCluster("tokyo")
	f.wait(t, m, v1alpha1.ConditionConnected, metav1.ConditionFalse)
	before := f.written
	end := f.load(t)
	update(t, f, m, func(m *v1alpha1.MemberCluster) { m.Spec.Removal = v1alpha1.LeaveForget })
	if err := f.kube.Delete(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	f.gone(t, "tokyo")
	eventually(t, 2*time.Minute, "berlin has no link to tokyo", func() error {
		m := memberCluster("berlin")
		if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
			return err
		}
		for _, l := range m.Status.Links {
			if l.Peer == "tokyo" {
				return fmt.Errorf("its links are %+v", m.Status.Links)
			}
		}
		return nil
	})
	f.checkEventsAmong(t, "berlin", "edge")
	f.checkCopies(t, "orders", end(), "berlin", "edge")
	f.uninstall(t, tokyo, "sealane-agent", "sealane-broker-0")
	f.checkCopies(t, "orders", counts{"berlin": before}, "tokyo")
	if err := tokyo.Heal(t.Context(), hub.IP, berlin.IP); err != nil {
		t.Fatal(err)
	}
}

// uninstall removes a release and waits until only some pods are left.
func (f *federation) uninstall(t testing.TB, c *lab.Cluster, release, left string) {
	t.Helper()
	from := time.Now()
	if out, err := c.Helm(t.Context(), "uninstall", release, "--namespace", system); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually(t, 3*time.Minute, "pods that are left of "+release+": "+left, func() error {
		if pods := kubectl(t, c, "-n", system, "get", "pods", "-o", "jsonpath={.items[*].metadata.name}"); pods != left {
			return errors.New("pods are " + pods)
		}
		return nil
	})
	f.apart = append(f.apart, span{from, time.Now()})
}
